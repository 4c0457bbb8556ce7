"""From a TSV to a scored model with the command line, and mistakes on the way."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from tiny_run import Outcome, TinyRun, copy_of

from mtf_switch import whole_file
from mtf_switch.cli import own_data_flags, own_texts
from mtf_switch.runs.pretrained_checkpoint import PretrainedCheckpoint
from tasks import labelled_files, labelled_splits, own_data

TASK = "reviews"


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = ["text\tlabel", *("\t".join(row) for row in rows)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    rows = [(f"ba do {i}", "lu" if i % 2 else "me") for i in range(30)]
    write_table(folder / "train.tsv", [*rows, (" ".join(["ba do ki"] * 30), "lu")])
    write_table(folder / "validation.tsv", [("ba do 3", "lu"), ("no pa", "me"), ("pa", "so")])
    write_table(folder / "new.tsv", [("ki", "lu"), ("so", "me")])
    (folder / "numbers.jsonl").write_text('{"inputs": "ki", "targets": [1, "two"]}\n')
    return folder


def finetune(tiny: TinyRun, folder: Path, model_dir: Path, base: Path, *more: str) -> Outcome:
    return tiny.command(
        "finetune",
        f"--train_file={folder}/train.tsv",
        f"--validation_file={folder}/validation.tsv",
        "--inputs_column=text",
        "--targets_column=label",
        "--task_prefix=ba: ",
        f"--task={TASK}",
        "--metric=accuracy",
        f"--init_checkpoint={base}",
        f"--model_dir={model_dir}",
        "--gin_file=runs/own_data.gin",
        "--steps=1",
        "--gin_param=utils.run.sequence_length = {'inputs': 32, 'targets': 16}",
        "--gin_param=utils.run.batch_size = 8",
        *more,
    )


@pytest.fixture(scope="module")
def tuned(tiny: TinyRun, trained: Path, folder: Path, tmp_path_factory) -> Path:
    model_dir = tmp_path_factory.mktemp("tuned") / "run"
    outcome = finetune(tiny, folder, model_dir, trained)
    assert outcome.code == 0, outcome.err
    said = outcome.err
    assert "train 31, validation 3 examples." in said
    assert "1 of 3 inputs are also in" in said
    assert "1 labels never occur in training, which has 2 labels: 'so' (line 4)" in said
    assert f"{folder}/train.tsv (inputs): 1 of 31 lines were cut to the 32 tokens" in said
    assert "line 32 (" in said
    return model_dir


def test_a_run_keeps_its_data_and_its_vocabulary(tuned: Path, trained: Path) -> None:
    config = (tuned / "config.gin").read_text()
    assert "own_data.prefix = 'ba: '" in config
    assert "MIXTURE_NAME = 'reviews'" in config
    assert re.search(r"own_data.train_file = '/.*/train.tsv'", config)
    (hashes,) = json.loads((tuned / "text.json").read_text()).values()
    assert sorted(map(len, hashes.values())) == [64, 64]
    kept = [(folder / "vocabulary.model").read_bytes() for folder in (tuned, trained)]
    assert kept[0] == kept[1]


def test_a_run_that_starts_from_it_does_not_inherit_its_data(tuned: Path) -> None:
    inherited = PretrainedCheckpoint.from_path(str(tuned)).config.text
    assert "num_experts" in inherited
    assert "own_data" not in inherited


@pytest.fixture(scope="module")
def evaluated(tiny: TinyRun, tuned: Path) -> Path:
    """The folder of the answers and scores of `tuned`."""
    outcome = tiny.command("eval", f"--model_dir={tuned}")
    assert outcome.code == 0, outcome.err
    folder = tuned / "validation_eval"
    wrote = rf"wrote {folder}/{TASK}\.json: 3 examples, step 1, \d+\.\d seconds"
    assert re.search(wrote, outcome.out)
    return folder


def test_eval_and_predict_need_no_flag_again(
    tiny: TinyRun, tuned: Path, evaluated: Path, tmp_path: Path
) -> None:
    answers = evaluated / f"{TASK}-1.jsonl"
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [line["inputs"] for line in lines] == ["ba: ba do 3", "ba: no pa", "ba: pa"]
    assert [line["target_value"] for line in lines] == [["lu"], ["me"], ["so"]]
    (step,) = json.loads((answers.parent / f"{TASK}.json").read_text())["steps"]
    right = sum(line["prediction_value"] in line["target_value"] for line in lines)
    assert step["scores"][TASK] == {"accuracy": pytest.approx(100 * right / 3)}

    # The same inputs, two of them with the prefix.
    table = tmp_path / "in.tsv"
    table.write_text("label\ttext\n?\tba do 3\n?\tba: no pa\n?\tpa\n")
    outcome = tiny.command(
        *("predict", f"--model_dir={tuned}", f"--input_file={table}"),
        *(f"--output_file={tmp_path}/out.txt", "--max_length=16"),
    )
    assert outcome.code == 0, outcome.err
    assert "The task of the run puts 'ba: ' before each input" in outcome.err
    out = (tmp_path / "out.txt").read_text().split("\n")[:-1]
    assert [line.strip() for line in out] == [line["prediction_value"] for line in lines]


def test_compare_finds_the_run_that_describes_the_task(
    tiny: TinyRun, evaluated: Path, tuned: Path, trained: Path, tmp_path: Path
) -> None:
    other = copy_of(trained, tmp_path / "other")
    shutil.copytree(evaluated, other / "validation_eval")
    outcome = tiny.command("compare", "--models", other, tuned, "--tasks", TASK)
    assert outcome.code == 0, outcome.err
    assert f"| {TASK}/accuracy | 3 |" in outcome.out


def test_a_file_of_lines_and_the_targets_of_a_table(tuned: Path, tmp_path: Path) -> None:
    text, table = tmp_path / "in.txt", tmp_path / "in.tsv"
    text.write_text("ba do 3\nba: no pa\n")
    table.write_text("label\ttext\nlu\tba do 3\n")
    options = argparse.Namespace(
        model_dir=str(tuned), input_file=str(text), target_file=str(table)
    )
    assert own_texts.read(options, "input_file") == {1: "ba: ba do 3", 2: "ba: no pa"}
    assert own_texts.read(options, "target_file") == {2: "lu"}


@pytest.mark.parametrize(
    ("name", "content", "column", "targets"),
    [
        ("t.tsv", "label\tid\nlu\t1\nme\t2\n", "label", {2: "lu", 3: "me"}),
        ("t.tsv", "1\tlu\n2\tme\n", "2", {1: "lu", 2: "me"}),
        ("t.jsonl", '{"label": ["lu", "so"]}\n{"label": "me"}', "label", {1: "lu", 2: "me"}),
    ],
    ids=["a name", "a number", "a list"],
)
def test_a_table_of_targets_needs_no_column_of_inputs(
    tmp_path: Path, capsys, name: str, content: str, column: str, targets: dict[int, str]
) -> None:
    (tmp_path / name).write_text(content)
    options = argparse.Namespace(
        model_dir=str(tmp_path), target_file=str(tmp_path / name), targets_column=column
    )
    assert own_texts.read(options, "target_file") == targets
    said = capsys.readouterr().err
    assert f"{name}: 2 examples, column {column!r}." in said
    several = "1 of them have several targets; the first is read."
    assert (several in said) == name.endswith("jsonl")


def test_another_file_and_metric_in_eval_and_the_list_of_tasks(
    tiny: TinyRun, tuned: Path, folder: Path
) -> None:
    """The file is at an address, in TensorFlow's own file system in memory."""
    address = f"ram://{folder.name}/new.tsv"
    whole_file.write_text(address, (folder / "new.tsv").read_text())
    splits = labelled_splits.make_splits(None, None, address, labelled_files.Columns())
    content = (folder / "new.tsv").read_bytes()
    assert own_data.OwnSource(splits).versions() == {
        address: hashlib.sha256(content).hexdigest()
    }
    outcome = tiny.command(
        *("eval", f"--model_dir={tuned}", f"--test_file={address}"),
        *("--metric=f1", "--metric=exact_match"),
    )
    assert outcome.code == 0, outcome.err
    scores = json.loads((tuned / "test_eval" / "new.json").read_text())
    assert scores["split"] == "test"
    assert scores["steps"][0]["scores"]["new"].keys() == {"f1", "exact_match"}
    outcome = tiny.command("tasks", "rev*", f"--model_dir={tuned}")
    assert re.search(r"reviews +yes +accuracy +train 31, validation 3", outcome.out)


def test_it_is_said_how_many_examples_were_examined(
    tiny: TinyRun, trained: Path, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(own_data_flags, "_EXAMINED", 30)
    outcome = finetune(tiny, folder, tmp_path / "new", trained, "--dry_run")
    assert outcome.code == 0, outcome.err
    assert (
        f"{folder}/train.tsv: the lengths of the first 30 of 31 examples are compared with the "
        "model's." in outcome.err
    )
    # The long one is the last one.
    assert "were cut" not in outcome.err


def test_changed_data_is_refused_in_training(
    tiny: TinyRun, tuned: Path, trained: Path, folder: Path
) -> None:
    path = folder / "validation.tsv"
    before = path.read_bytes()
    try:
        path.write_bytes(before + b"ki\tlu\n")
        outcome = finetune(tiny, folder, tuned, trained)
    finally:
        path.write_bytes(before)
    assert outcome.code == 1
    assert "validation.tsv has different content" in outcome.err


MISTAKES = {
    (): "There is nothing to train on: pass --task=NAME",
    (
        "--metric=f1",
        "--task=x",
    ): "--metric describes files of your own examples: pass --train_f",
    ("--test_file={}/new.tsv",): "There is nothing to train on: pass --train_file, too.",
    ("--train_file={}/train.tsv",): "line 1: there is no column 'inputs'",
    (
        *("--train_file={}/train.tsv", "--inputs_column=text", "--targets_column=label"),
        "--metric=pearson",
    ): "train.tsv, line 3: --metric=pearson compares numbers, but the target is 'lu'",
    (
        *("--train_file={}/numbers.jsonl", "--validation_file={}/numbers.jsonl"),
        "--metric=spearman",
    ): "numbers.jsonl, line 1: --metric=spearman compares numbers, but the target is 'two'",
    (
        *("--train_file={}/train.tsv", "--inputs_column=text", "--targets_column=label"),
        "--task=my reviews",
    ): "--task=my reviews cannot name the task of your files",
    (
        *("--train_file={}/train.tsv", "--inputs_column=text", "--targets_column=label"),
        "--task=glue_cola_v002",
    ): "The name 'glue_cola_v002' of your own data is that of another task. Choose another",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_mistakes_get_one_sentence(
    tiny: TinyRun, trained: Path, folder: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    outcome = tiny.command(
        *("finetune", f"--init_checkpoint={trained}", f"--model_dir={tmp_path}/new"),
        *(argument.format(folder) for argument in arguments),
    )
    assert outcome.code == 1
    assert MISTAKES[arguments] in outcome.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--metric=f1",),
            "--metric describes files of your own examples: pass --validation_f",
        ),
        (("--validation_file={}/no.tsv",), "no.tsv cannot be read: No such file"),
        (("--validation_file=ram://x/no.tsv",), "ram://x/no.tsv cannot be read: No such"),
    ],
)
def test_mistakes_in_eval(
    tiny: TinyRun, trained: Path, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = (argument.format(folder) for argument in arguments)
    outcome = tiny.command("eval", f"--model_dir={trained}", *given)
    assert outcome.code == 1
    assert message in outcome.err


def test_columns_are_for_tables(tiny: TinyRun, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("ba\n")
    outcome = tiny.command(
        *("predict", f"--model_dir={trained}", f"--input_file={tmp_path}/in.txt"),
        *(f"--output_file={tmp_path}/out.txt", "--inputs_column=text"),
    )
    assert outcome.code == 1
    assert "--inputs_column is for a file whose name ends in .tsv, .csv, .jsonl" in outcome.err


@pytest.mark.parametrize(
    ("given", "missing"),
    [("inputs_column=q", "targets_column"), ("targets_column=a", "inputs_column")],
)
def test_of_two_tables_both_columns_are_named(
    tiny: TinyRun, trained: Path, tmp_path: Path, given: str, missing: str
) -> None:
    """A file of JSON lines has as many lines as examples, so nothing else would notice it."""
    table = tmp_path / "a.jsonl"
    table.write_text('{"q": "ba", "a": "do"}\n{"q": "ki", "a": "lu"}\n')
    flags = [f"--model_dir={trained}", f"--output_file={tmp_path}/out.txt", f"--{given}"]
    files = [f"--input_file={table}", f"--target_file={table}"]
    outcome = tiny.command("score", *flags, *files)
    assert outcome.code == 1
    file = missing.replace("s_column", "_file")
    assert f"--{file} is the table {table}: pass --{missing}, too." in outcome.err
    assert not (tmp_path / "out.txt").exists()
