"""`run_switch.py eval` with metrics, compared with counts by hand from its answers."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from tiny_run import TinyRun, contents, copy_of

from mtf_switch.downstream import (
    agreement,
    checkpoint_selection,
    decoding,
    evaluate_checkpoints,
    evaluation_sets,
    scores,
)
from mtf_switch.downstream.scores import StepScores
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.runs import evaluation

SUPER_GLUE = "super_glue_v102_proportional"


class Decoder:
    """Stands in for the model: answers every other example with its target.

    Attributes:
      steps: The steps of the checkpoints that it was asked for.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []

    def decode(self, sets, run, checkpoint: str) -> Iterator[str]:
        self.steps.append(saved_checkpoints.parse_step(checkpoint))
        for part in sets:
            for index in range(len(part.examples)):
                yield "no idea" if index % 2 else part.get_text(index, "targets")


@pytest.fixture(scope="module")
def evaluated(tiny: TinyRun, finetuned: Path, tmp_path_factory):
    """A copy with every checkpoint scored.

    Gives its model_dir, what the two commands printed, and the steps that the second one
    decoded: the first command decodes with the model, the second one with `Decoder`.
    """
    model_dir = copy_of(finetuned, tmp_path_factory.mktemp("scored") / "run")
    first = tiny.command("eval", f"--model_dir={model_dir}", "--checkpoint_steps=2")
    assert first.code == 0, first.err
    decoder = Decoder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "decode", decoder.decode)
        second = tiny.command("eval", f"--model_dir={model_dir}", "--checkpoint_steps=0,4")
    assert second.code == 0, second.err
    return model_dir, first, second, decoder.steps


def answers(model_dir: Path, task: str, step: int) -> list[dict]:
    path = model_dir / "validation_eval" / f"{task}-{step}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_checkpoint_and_subtask_is_scored(evaluated) -> None:
    model_dir, *_ = evaluated
    steps = scores.read_scores(str(model_dir), "validation", SUPER_GLUE)
    assert [step.step for step in steps] == [0, 2, 4]
    for step in steps:
        # DPR has no validation split, AX-b and AX-g no metric.
        assert sorted(step.scores) == [
            "super_glue_boolq_v102",
            "super_glue_cb_v102",
            "super_glue_copa_v102",
            "super_glue_multirc_v102",
            "super_glue_record_v102",
            "super_glue_rte_v102",
            "super_glue_wic_v102",
            "super_glue_wsc_v102_simple_eval",
        ]
        assert list(step.averages) == ["super_glue_average"]


def test_scores_are_those_of_the_answers_that_were_written(evaluated) -> None:
    model_dir, *_ = evaluated
    (*_, last) = scores.read_scores(str(model_dir), "validation", SUPER_GLUE)
    for name, classes in (("boolq", ("False", "True")), ("rte", ("entailment",))):
        lines = answers(model_dir, f"super_glue_{name}_v102", 4)
        right = sum(line["prediction"] == line["targets"] for line in lines)
        assert last.scores[f"super_glue_{name}_v102"]["accuracy"] == 100 * right / len(lines)
        assert {line["targets"] for line in lines} >= set(classes)
    (record,) = answers(model_dir, "super_glue_record_v102", 4)
    assert record["target_value"] == {"value": ["Ann"], "group": [0, 0]}
    assert record["inputs"].startswith("record query: @placeholder met Ben.")


def test_the_average_is_the_mean_over_tasks_of_the_mean_over_metrics(evaluated) -> None:
    model_dir, *_ = evaluated
    for step in scores.read_scores(str(model_dir), "validation", SUPER_GLUE):
        means = [sum(of.values()) / len(of) for of in step.scores.values()]
        expected = sum(means) / len(means)
        assert step.averages["super_glue_average"] == pytest.approx(expected)


def test_csv_and_plot_hold_a_row_and_a_point_for_each_step(evaluated) -> None:
    model_dir, *_ = evaluated
    root = model_dir / "validation_eval" / SUPER_GLUE
    with open(root.with_suffix(".csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    steps = scores.read_scores(str(model_dir), "validation", SUPER_GLUE)
    assert [row["step"] for row in rows] == ["0", "2", "4"]
    for row, step in zip(rows, steps):
        assert float(row["super_glue_cb_v102/accuracy"]) == pytest.approx(
            step.scores["super_glue_cb_v102"]["accuracy"], abs=5e-4
        )
    assert root.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_screen_shows_last_and_peak_and_warns_of_the_choice(evaluated) -> None:
    _, first, second, _ = evaluated
    assert "super_glue_average, each task at its own peak:" in first.out
    assert "The peaks" not in first.out
    assert "super_glue_average, each task at its own peak:" in second.out
    assert "The peaks of 3 checkpoints were chosen on validation" in second.out


def test_steps_are_added_to_what_there_is(evaluated) -> None:
    model_dir, first, second, decoded = evaluated
    assert decoded == [0, 4]
    tables = [
        [line for line in outcome.out.splitlines() if not line.startswith("wrote ")]
        for outcome in (first, second)
    ]
    assert [table[0].split()[:2] for table in tables] == [["step", "2"], ["step", "4"]]
    wrote = re.findall(r"wrote \S+/(\w+)\.json: (\d+) examples, step (\d)", second.out)
    assert [(name, step) for name, _, step in wrote] == [(SUPER_GLUE, "0"), (SUPER_GLUE, "4")]
    steps = scores.read_scores(str(model_dir), "validation", SUPER_GLUE)
    assert [step.step for step in steps] == [0, 2, 4]


def test_a_part_of_the_examples_replaces_no_result_of_all(
    evaluated, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny run has batches of 8, and its data one or two examples of each task."""
    model_dir, *_ = evaluated
    before = contents(model_dir / "validation_eval")
    monkeypatch.setattr(decoding, "decode", Decoder().decode)
    arguments = ("--eval_batches=1", "--gin_param=utils.run.batch_size = 1")
    outcome = tiny.command("eval", f"--model_dir={model_dir}", *arguments)
    assert outcome.code == 0, outcome.err
    assert "Only the first examples were scored: 1 of 2 of super_glue_boolq_v102" in outcome.out
    after = contents(model_dir / "validation_eval")
    assert {name: after[name] for name in before} == before
    added = set(after) - set(before)
    assert {f"{SUPER_GLUE}-first1.json", "super_glue_boolq_v102-first1-4.jsonl"} < added
    assert all("-first1" in name for name in added)
    data = json.loads(after[f"{SUPER_GLUE}-first1.json"])
    (step,) = data["steps"]
    assert (data["limit"], step["examples"]["super_glue_boolq_v102"]) == (1, 1)
    assert step["examples_of_split"]["super_glue_boolq_v102"] == 2


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("Bitransformer.decode.beam_size", "4"), ("ExpertCapacity.capacity_factor_eval", "1.0")],
)
def test_steps_that_were_decoded_in_another_way_are_not_mixed(
    evaluated, tiny: TinyRun, parameter: str, value: str
) -> None:
    """A table or a peak over greedy and beam answers would compare different things."""
    model_dir, *_ = evaluated
    changed = f"--gin_param={parameter} = {value}"
    outcome = tiny.command("eval", f"--model_dir={model_dir}", changed)
    assert (outcome.code, outcome.out) == (1, "")
    assert f"were decoded with {parameter} = " in outcome.err
    assert f"this evaluation has {value}" in outcome.err


def test_steps_that_were_scored_on_other_examples_are_not_mixed(
    evaluated, tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir = copy_of(evaluated[0], tmp_path / "run")
    before = contents(model_dir / "validation_eval")
    path = model_dir / "validation_eval" / "super_glue_boolq_v102-2.jsonl"
    path.write_text(path.read_text().replace("boolq", "bool", 1))
    monkeypatch.setattr(decoding, "decode", Decoder().decode)
    arguments = ("eval", f"--model_dir={model_dir}")
    outcome = tiny.command(*arguments, "--checkpoint_steps=4")
    assert outcome.code == 1
    assert "(step 2) on other examples of 'super_glue_boolq_v102' than this" in outcome.err
    assert "(2 and 2 of them)" in outcome.err
    outcome = tiny.command(*arguments, "--checkpoint_steps=all")
    assert outcome.code == 0, outcome.err
    assert contents(model_dir / "validation_eval").keys() == before.keys()


def test_steps_that_another_process_adds_meanwhile_are_kept(
    evaluated, tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir = copy_of(evaluated[0], tmp_path / "run")
    file = Path(scores.scores_file(str(model_dir), "validation", SUPER_GLUE, None))
    data = json.loads(file.read_text())
    file.write_text(json.dumps({"steps": data["steps"][:1]}))

    def decode(sets, run, checkpoint):
        file.write_text(json.dumps({"steps": data["steps"][:2]}))
        return Decoder().decode(sets, run, checkpoint)

    monkeypatch.setattr(decoding, "decode", decode)
    outcome = tiny.command("eval", f"--model_dir={model_dir}")
    assert outcome.code == 0, outcome.err
    steps = scores.read_scores(str(model_dir), "validation", SUPER_GLUE)
    assert [step.step for step in steps] == [0, 2, 4]


@pytest.mark.parametrize("beams", ["1", "4"])
def test_follow_compares_itself_with_steps_whose_checkpoints_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beams: str
) -> None:
    """It scores step 4 again, and cannot do so for step 2."""
    steps = [
        StepScores(2, {"x": 1}, {"x": {"em": 1.0}}, {}, {}, {"beam_size": "1"}),
        StepScores(4, {"x": 1}, {"x": {"em": 1.0}}, {}, {}, {"beam_size": "2"}),
    ]
    file = Path(scores.scores_file(str(tmp_path), "validation", "x", None))
    file.parent.mkdir()
    file.write_text(json.dumps(scores.to_data("x", "validation", None, steps)))
    run = SimpleNamespace(settings=SimpleNamespace(task="x"), model_dir=str(tmp_path))
    paths = [str(tmp_path / "model.ckpt-4")]
    check_data = mock.Mock()
    for module, name, replacement in (
        (evaluation_sets, "load_evaluation_sets", lambda *_: []),
        (decoding, "bind_decode_length", lambda _: None),
        (decoding, "describe_settings", lambda _: {"beam_size": beams}),
        (saved_checkpoints, "list_paths", lambda _: paths),
        (checkpoint_selection, "FollowedRun", lambda _: None),
        (checkpoint_selection, "wait_for_checkpoints", lambda *_: []),
        (agreement, "check_same_data", check_data),
    ):
        monkeypatch.setattr(module, name, replacement)

    def score() -> list[StepScores]:
        return evaluate_checkpoints.score_checkpoints(run, "validation", "latest", follow=True)

    if beams == "1":
        assert score() == steps
        check_data.assert_called_once_with(str(file), [], "validation", 2, None)
    else:
        with pytest.raises(
            UserError, match=r"\(step 2\) that were decoded with .*beam_size = 1"
        ):
            score()


def test_checkpoints_are_selected_by_their_steps(finetuned: Path) -> None:
    def select(text: str) -> list[int]:
        selection = checkpoint_selection.parse_selection(text)
        paths = checkpoint_selection.select_checkpoints(str(finetuned), selection)
        return [saved_checkpoints.parse_step(path) for path in paths]

    assert select("all") == [0, 2, 4]
    assert select("latest") == [4]
    assert select("4,0") == [0, 4]


@pytest.mark.parametrize(
    "with_model", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["stub", "model"]
)
def test_perplexity_of_a_task_with_metrics(
    tiny: TinyRun,
    finetuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_model: bool,
) -> None:
    """tests/runs tests the evaluation itself. This evaluates a mixture with metrics."""
    if not with_model:

        def evaluate(*arguments, **options) -> evaluation.Evaluation:
            return evaluation.Evaluation(
                4, SUPER_GLUE, "validation", -2.5, 0.5, 8, 0, {}, {}, {}
            )

        monkeypatch.setattr(evaluation, "evaluate", evaluate)
    model_dir = copy_of(finetuned, tmp_path / "run")
    outcome = tiny.command("eval", f"--model_dir={model_dir}", "--perplexity")
    assert outcome.code == 0, outcome.err
    assert "neg_log_perplexity" in outcome.out
    assert json.loads((model_dir / "eval.json").read_text())["task"] == SUPER_GLUE
    rows = (model_dir / "perplexity.csv").read_text().splitlines()[1:]
    assert rows[0].startswith(f"4,{SUPER_GLUE},validation,")
    # The real evaluation also writes a row for each task that has a validation split.
    assert len(rows) == (9 if with_model else 1)
    assert not (model_dir / "validation_eval").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--checkpoint_steps=last",), "--checkpoint_steps is 'last', but it must be 'all'"),
        (("--checkpoint_steps=0,3",), "has no checkpoint of step 3; it has those of 0, 2, 4"),
        (("--split=validatoin",), f"Task '{SUPER_GLUE}' has no split 'validatoin'; it has"),
        (("--checkpoint_steps=all", "--follow"), "so --checkpoint_steps has no effect"),
        (("--task=xsun",), "The nearest names are: xsum"),
    ],
)
def test_mistakes_get_one_message(
    tiny: TinyRun, finetuned: Path, arguments: tuple, message: str
) -> None:
    outcome = tiny.command("eval", f"--model_dir={finetuned}", *arguments)
    assert outcome.code == 1
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_an_empty_split_is_refused(tiny: TinyRun, finetuned: Path) -> None:
    import seqio
    from t5.evaluation import metrics

    feature = seqio.Feature(
        seqio.SentencePieceVocabulary(str(finetuned / "vocabulary.model"), 100)
    )
    seqio.TaskRegistry.remove("mtf_switch_test_empty")
    seqio.TaskRegistry.add(
        "mtf_switch_test_empty",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: None,
            splits=["train", "validation"],
            num_input_examples={"train": 1, "validation": 0},
        ),
        preprocessors=[],
        output_features={"inputs": feature, "targets": feature},
        metric_fns=[metrics.accuracy],
    )
    outcome = tiny.command("eval", f"--model_dir={finetuned}", "--task=mtf_switch_test_empty")
    assert outcome.code == 1
    assert "The split 'validation' of task 'mtf_switch_test_empty' is empty." in outcome.err
