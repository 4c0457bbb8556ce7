"""`run_switch.py compare`, on handwritten answers."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import seqio
from tiny_run import TinyRun

from mtf_switch.downstream import answers, comparison, paper_tables, scores, scores_report
from mtf_switch.downstream.comparison import TaskResult
from mtf_switch.downstream.scores import Peak, StepScores
from mtf_switch.errors import UserError

TASK = "winogrande_xl"


def write_model(
    model_dir: Path,
    right_at: dict[int, int],
    questions: int = 20,
    beams: int = 1,
    tasks: tuple[str, ...] = (TASK,),
) -> str:
    """Writes a model_dir with scores on Winogrande: step -> questions that were right."""
    steps = []
    for step, right in right_at.items():
        lines = [
            {
                "inputs": f"question {i}",
                "targets": "yes",
                "prediction": "yes" if i < right else "no",
                "target_value": "yes",
                "prediction_value": "yes" if i < right else "no",
            }
            for i in range(questions)
        ]
        path = Path(answers.answers_file(str(model_dir), "validation", TASK, step))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        values = {task: {"accuracy": 100 * right / questions} for task in tasks}
        counts = dict.fromkeys(tasks, questions)
        decoding = {"beam_size": repr(beams)}
        steps.append(StepScores(step, counts, values, {}, counts, decoding))
    report = scores_report.make_report(TASK, "validation", None, steps, "model")
    dataclasses.replace(report, plots={}).write(
        scores.eval_folder(str(model_dir), "validation")
    )
    config = f"MIXTURE_NAME = '{TASK}'\nutils.run.skip_seen_data = True\n"
    (model_dir / "config.gin").write_text(config)
    return str(model_dir)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two models; never to be written to."""
    folder = tmp_path_factory.mktemp("models")
    return [
        write_model(folder / "t5", {200: 8, 400: 10}),
        write_model(folder / "switch", {200: 19, 400: 12}),
    ]


@pytest.fixture(scope="module")
def rows(models: list[str]) -> list[comparison.Row]:
    import tasks

    tasks.register()
    return comparison.compare_models(models, [TASK], "validation")


def test_each_model_is_at_its_best_checkpoint(rows: list[comparison.Row]) -> None:
    (row,) = rows
    assert [(cell.step, cell.value) for cell in row.cells] == [(400, 50.0), (200, 95.0)]
    assert row.examples == 20
    t5, switch = row.cells
    assert t5.interval[0] < 50 < t5.interval[1]
    assert switch.difference == 45.0
    # Nine of twenty questions differ, which chance does not explain.
    assert 0 < switch.difference_interval[0] < 45 < switch.difference_interval[1]


def test_the_papers_row_stands_beside(rows: list[comparison.Row], models: list[str]) -> None:
    lines = comparison.format_table(rows, models, "Base").splitlines()
    assert lines[0].endswith(
        "| t5 | switch | switch - t5 | T5-Base in the paper | Switch-Base in the paper | "
        "difference in the paper |"
    )
    assert lines[2].startswith("| winogrande_xl/accuracy | 20 | 50.00 [")
    assert lines[2].endswith("| 66.6 | 73.3 | +6.7 |")
    large = comparison.format_table(rows, models, "Large").splitlines()
    assert large[2].endswith("| 79.1 | 83.0 | +3.9 |")


def test_the_command_prints_and_writes_the_table(
    tiny: TinyRun, models: list[str], tmp_path: Path
) -> None:
    outcome = tiny.command(
        "compare", "--models", *models, "--tasks", TASK, f"--output_dir={tmp_path / 'out'}"
    )
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "out" / "compare.md").read_text().strip() in outcome.out
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["rows"][0]["cells"][1]["difference"] == 45.0


def test_a_model_without_scores_is_refused_with_advice(
    models: list[str], tiny: TinyRun
) -> None:
    outcome = tiny.command("compare", "--models", *models, "--tasks", "xsum")
    assert outcome.code == 1
    assert f"{models[0]} has no scores of 'xsum' (validation)" in outcome.err
    flags = f"--model_dir={models[0]} --task=xsum --split=validation --checkpoint_steps=all"
    assert f"run_switch.py eval {flags}\n" in outcome.err


def test_other_examples_are_not_compared(models, tiny: TinyRun, tmp_path: Path) -> None:
    fewer = write_model(tmp_path / "fewer", {200: 3}, questions=5)
    outcome = tiny.command("compare", "--models", models[0], fewer, "--tasks", TASK)
    assert outcome.code == 1
    assert "different examples of 'winogrande_xl' (20 and 5 of them)" in outcome.err


def test_answers_of_a_part_are_not_compared_with_scores_of_the_whole(
    models, tiny: TinyRun, tmp_path: Path
) -> None:
    """The two right answers of `eval --eval_batches=2` would be 50.00 [100.00, 100.00]."""
    other = write_model(tmp_path / "other", {200: 10})
    path = Path(other) / "validation_eval" / f"{TASK}-200.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    outcome = tiny.command("compare", "--models", models[0], other, "--tasks", TASK)
    assert (outcome.code, outcome.out) == (1, "")
    assert f"{path} has 2 answers, but the scores of step 200 are of 20" in outcome.err
    flags = f"--model_dir={other} --task={TASK} --split=validation --checkpoint_steps=200"
    assert f"eval {flags}\n" in outcome.err


def test_scores_of_a_part_alone_are_not_compared(models, tiny: TinyRun, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", {200: 10})
    folder = Path(other) / "validation_eval"
    (folder / f"{TASK}.json").rename(folder / f"{TASK}-first16.json")
    outcome = tiny.command("compare", "--models", models[0], other, "--tasks", TASK)
    assert (outcome.code, outcome.out) == (1, "")
    assert f"only those of a part of the examples: {folder / TASK}-first16.json" in outcome.err


def test_other_targets_decoding_and_tasks_are_not_compared(
    models, tiny: TinyRun, tmp_path: Path
) -> None:
    beams = write_model(tmp_path / "beams", {200: 10}, beams=4)
    more = write_model(tmp_path / "more", {200: 10}, tasks=(TASK, "winogrande_l"))
    targets = write_model(tmp_path / "targets", {200: 10})
    path = Path(targets) / "validation_eval" / f"{TASK}-200.jsonl"
    path.write_text(path.read_text().replace('"target_value": "yes"', '"target_value": "no"'))
    for other, message in (
        (beams, "Bitransformer.decode.beam_size = 1, but " + beams + " has 4"),
        (more, "only one of them has scores of winogrande_l"),
        (targets, "different examples of 'winogrande_xl' (20 and 20 of them)"),
    ):
        outcome = tiny.command("compare", "--models", models[0], other, "--tasks", TASK)
        assert (outcome.code, outcome.out) == (1, "")
        assert message in outcome.err


@pytest.fixture
def mixture() -> Iterator[str]:
    import tasks

    tasks.register()
    seqio.MixtureRegistry.add("mtf_switch_test_mixture", [TASK], default_rate=1.0)
    yield "mtf_switch_test_mixture"
    seqio.MixtureRegistry.remove("mtf_switch_test_mixture")


def test_answers_that_are_gone_are_named_with_the_command_that_writes_them(
    mixture: str, tmp_path: Path
) -> None:
    """They are of the test split, and a part of a mixture that is not the task of the run."""
    other = write_model(tmp_path / "oth er", {200: 19})
    folder = (Path(other) / "validation_eval").rename(Path(other) / "test_eval")
    (folder / f"{TASK}-200.jsonl").unlink()
    (folder / f"{TASK}.json").rename(folder / f"{mixture}.json")
    with pytest.raises(UserError) as raised:
        comparison.compare_models([other, other], [mixture], "test")
    message = str(raised.value)
    assert f"{folder / TASK}-200.jsonl" in message
    command = shlex.split(message.split("Write it again: ")[1])
    assert command[1:] == [
        *("eval", f"--model_dir={other}", f"--task={mixture}"),
        *("--split=test", "--checkpoint_steps=200"),
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *(("inputs", value, "TypeError: an input is not text") for value in (None, 5, ["a"])),
        ("prediction_value", {"a": 1}, "The metrics of 'winogrande_xl' cannot compare the val"),
        ("prediction_value", None, "The metrics of 'winogrande_xl' cannot compare the values"),
    ],
)
def test_answers_of_another_type_are_refused(
    models, tiny: TinyRun, tmp_path: Path, key: str, value: object, message: str
) -> None:
    other = write_model(tmp_path / "other", {200: 19})
    path = Path(other) / "validation_eval" / f"{TASK}-200.jsonl"
    first, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps({**json.loads(first), key: value}) + "\n" + "".join(lines))
    outcome = tiny.command("compare", "--models", models[0], other, "--tasks", TASK)
    assert (outcome.code, outcome.out) == (1, "")
    assert message in outcome.err
    assert str(path) in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("line", ["5", "null", "[]", '"x"', "{}", "[" * 99_999, "{", "\0"])
def test_lines_that_are_not_answers_are_refused(
    models, tiny: TinyRun, tmp_path: Path, line: str
) -> None:
    other = write_model(tmp_path / "other", {200: 19})
    path = Path(other) / "validation_eval" / f"{TASK}-200.jsonl"
    path.write_text(path.read_text() + line + "\n")
    outcome = tiny.command("compare", "--models", models[0], other, "--tasks", TASK)
    assert (outcome.code, outcome.out) == (1, "")
    assert (
        f"{path}, which holds the answers of the model's best checkpoint, cannot" in outcome.err
    )


def test_scores_of_another_metric_than_the_tasks_are_refused(
    models, tiny: TinyRun, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", {200: 19})
    path = Path(other) / "validation_eval" / f"{TASK}.json"
    path.write_text(path.read_text().replace('"accuracy"', '"accuracies"'))
    outcome = tiny.command("compare", "--models", models[0], other, "--tasks", TASK)
    assert (outcome.code, outcome.out) == (1, "")
    assert "has the metrics accuracy, but the scores of its step have accuracies" in outcome.err


def test_an_average_of_several_tasks_is_drawn_task_by_task() -> None:
    import numpy as np

    results = [
        TaskResult("a", 3, [Peak(2, {"em": 40.0})] * 2, [{"em": np.full(1000, 30.0)}] * 2),
        TaskResult(
            "b", 4, [Peak(4, {"em": 60.0})] * 2, [{"em": np.linspace(40, 80, 1000)}] * 2
        ),
    ]
    (row,) = comparison._build_average_rows(results)
    assert (row.task, row.metric, row.examples) == ("", "average", 7)
    assert row.cells[0].value == 50.0
    # (30 + [40, 80]) / 2, without 2.5% at each end.
    assert row.cells[0].interval == pytest.approx((35.5, 54.5), abs=0.05)
    assert row.cells[1].difference_interval == (0.0, 0.0)


def test_the_tables_of_the_paper_agree_with_one_another() -> None:
    """Winogrande to CB Trivia QA, and both tables' best row, as printed."""
    titles = [column.title for column in paper_tables.TABLE_5]
    assert len(titles) == len(set(titles)) == 11
    assert paper_tables.find_column("", "super_glue_average").values == (75.1, 79.5, 82.7, 84.7)
    assert paper_tables.find_column("anli_r3", "accuracy").title == "ANLI (R3)"
    assert paper_tables.find_column("anli_r1", "accuracy") is None
    dropouts = [(row.dropout, row.expert_dropout) for row in paper_tables.TABLE_4]
    assert dropouts == [(0.1, None), (0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.1, 0.4)]
