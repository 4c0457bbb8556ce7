"""`run_switch.py superglue`: the exact form of the files, and the labels in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import TinyRun

from mtf_switch.downstream import decoding, superglue

FILES = (
    "BoolQ",
    "CB",
    "COPA",
    "MultiRC",
    "ReCoRD",
    "RTE",
    "WiC",
    "WSC",
    "AX-b",
    "AX-g",
)
LABELS = {
    "BoolQ": {"true", "false"},
    "CB": {"entailment", "contradiction", "neutral"},
    "COPA": {0, 1},
    "RTE": {"entailment", "not_entailment"},
    "WiC": {"true", "false"},
    "WSC": {"True", "False"},
    "AX-b": {"entailment", "not_entailment"},
    "AX-g": {"entailment", "not_entailment"},
}


def run_superglue(tiny: TinyRun, model_dir: Path, folder: Path) -> str:
    """Runs the command on the checkpoint of step 4, and returns what it printed."""
    outcome = tiny.command(
        "superglue", f"--model_dir={model_dir}", f"--output_dir={folder}", "--step=4"
    )
    assert outcome.code == 0, outcome.err
    return outcome.out


@pytest.fixture(scope="module")
def written(tiny: TinyRun, finetuned: Path, tmp_path_factory) -> tuple[Path, str]:
    """The files for answers without any label, and the printed output."""
    folder = tmp_path_factory.mktemp("superglue") / "files"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            decoding,
            "decode",
            lambda sets, *_: ("no idea" for part in sets for _ in part.examples),
        )
        return folder, run_superglue(tiny, finetuned, folder)


def lines(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_there_is_a_file_for_each_task_and_no_other(written) -> None:
    check_files(*written)


@pytest.mark.slow
def test_a_model_answers_all_test_sets(tiny: TinyRun, finetuned: Path, tmp_path: Path) -> None:
    check_files(tmp_path, run_superglue(tiny, finetuned, tmp_path))


def check_files(folder: Path, printed: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{n}.jsonl" for n in FILES)
    for name in FILES:
        assert f"{name}.jsonl" in printed


@pytest.mark.parametrize("name", LABELS)
def test_a_line_is_an_index_and_a_label_of_the_task(written, name: str) -> None:
    found = lines(written[0], name)
    assert [line["idx"] for line in found] == list(range(len(found)))
    for line in found:
        assert set(line) == {"idx", "label"}
        assert line["label"] in LABELS[name]


def test_multirc_is_nested_by_paragraph_and_question(written) -> None:
    (paragraph,) = lines(written[0], "MultiRC")
    (question,) = paragraph["passage"]["questions"]
    assert (paragraph["idx"], question["idx"]) == (0, 0)
    assert [answer["idx"] for answer in question["answers"]] == [0, 1]
    assert {answer["label"] for answer in question["answers"]} <= {0, 1}


def test_record_answers_with_text(written) -> None:
    (line,) = lines(written[0], "ReCoRD")
    assert line["idx"] == 0
    assert isinstance(line["label"], str)


def test_answers_without_a_label_get_the_first_one_and_are_counted(written) -> None:
    folder, printed = written
    row = next(line for line in printed.splitlines() if "BoolQ.jsonl" in line)
    assert row.split()[1:] == ["2", "2"]
    assert [line["label"] for line in lines(folder, "BoolQ")] == ["false", "false"]
    assert "Answers that are not a label were replaced by the task's first label." in printed


def test_valid_answers_become_their_labels(tmp_path: Path) -> None:
    """True and false, a class by its id, and the referent of WSC, by hand."""
    import seqio

    import tasks
    from mtf_switch.downstream.evaluation_sets import EvaluationSet

    tasks.register()
    by_name = {file.name: file for file in superglue.list_task_files()}
    cases = {
        "BoolQ": ([{"idx": 7}, {"idx": 3}], ["True", "False"], [(3, "false"), (7, "true")]),
        "CB": ([{"idx": 0}], ["contradiction"], [(0, "contradiction")]),
        "COPA": ([{"idx": 0}], ["choice2"], [(0, 1)]),
        "WSC": ([{"idx": 0, "targets_pretokenized": b"the dog"}], ["dog"], [(0, "True")]),
        "AX-g": ([{"idx": 0}], ["not_entailment"], [(0, "not_entailment")]),
        "ReCoRD": ([{"idx/passage": 5, "idx/query": 9}], ["Ada"], [(9, "Ada")]),
    }
    for name, (examples, answers, expected) in cases.items():
        part = EvaluationSet(
            seqio.TaskRegistry.get(by_name[name].task), None, examples, [], len(examples)
        )
        output = superglue._make_output(str(tmp_path), by_name[name])
        found = superglue._write_file(output, by_name[name], part, answers)
        assert found.invalid == 0
        assert [(line["idx"], line["label"]) for line in lines(tmp_path, name)] == expected


def test_a_step_without_a_checkpoint_is_refused(
    tiny: TinyRun, finetuned: Path, tmp_path: Path
) -> None:
    outcome = tiny.command(
        "superglue", f"--model_dir={finetuned}", f"--output_dir={tmp_path / 'x'}", "--step=3"
    )
    assert outcome.code == 1
    assert "has no checkpoint of step 3" in outcome.err
    assert not (tmp_path / "x").exists()


def test_a_file_of_somebody_else_is_not_replaced(
    tiny: TinyRun, finetuned: Path, tmp_path: Path
) -> None:
    (tmp_path / "CB.jsonl").write_text("mine")
    outcome = tiny.command(
        "superglue", f"--model_dir={finetuned}", f"--output_dir={tmp_path}", "--step=4"
    )
    assert outcome.code == 1
    assert "CB.jsonl exists, and superglue did not write it" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["CB.jsonl"]
