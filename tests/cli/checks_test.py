"""Mistakes that can be found without TensorFlow are reported before it is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import untrained_run

from mtf_switch.config import gin_files

# Runs every command in one process, into which nothing else has imported TensorFlow.
PROGRAM = """
import contextlib, io, json, sys
from mtf_switch.cli import main
answers = []
for arguments in json.load(sys.stdin):
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            code = main.main(arguments)
        except SystemExit as exit:
            code = exit.code
    answers.append([code, err.getvalue(), "tensorflow" in sys.modules])
print(json.dumps(answers))
"""
FILES = ("--input_file={0}/a.txt", "--output_file={0}/out.txt")
TINY = ("--gin_file=models/switch_tiny.gin", "--gin_file=runs/embedded.gin")
# Arguments -> a part of the message. {0} is a folder with a model_dir `run`, a.txt and two.txt.
MISTAKES = {
    ("compile", "--topology=v3:2x2"): "pass --gin_file, such as --gin_file=models/switch_c.gin",
    ("compile", *TINY, "--topology=v3:16x61"): "The nearest names are: v3:16x16",
    (
        "plan",
        *TINY,
        "--topology=v3:2x2",
    ): "--topology is for the TPU's compiler: pass --compile",
    ("plan", *TINY, "--compile", "--compare", TINY[0][11:]): "use the command compile",
    ("predict", "--model_dir={0}/no", *FILES): "{0}/no holds no config.gin",
    ("score", "--model_dir={0}/no", "--target_file={0}/a.txt", *FILES): "holds no config.gin",
    ("eval", "--model_dir={0}/no"): "holds no config.gin",
    ("superglue", "--model_dir={0}/no", "--output_dir={0}"): "holds no config.gin",
    ("compare", "--models", "{0}/run", "{0}/no", "--tasks=x"): "{0}/no holds no config.gin",
    (
        *("compare", "--models", "{0}/run", "--tasks=x"),
        "--output_dir={0}/notes",
    ): "notes/compare.md exists, and compare did not write it",
    ("predict", "--model_dir={0}/cut", *FILES): "{0}/cut/config.gin is empty or cut off",
    (
        *("finetune", "--task=x", "--model_dir={0}/new"),
        "--init_checkpoint={0}/no",
    ): "There is no checkpoint '{0}/no'",
    ("convert", "--from=hf", "--to=mtf", "{0}/no", "{0}/new"): "There is no folder {0}/no",
    ("convert", "--from=mtf", "--to=hf", "{0}/run", "{0}/run"): "{0}/run already exists",
    (
        *("convert", "--from=hf", "--to=mtf", "{0}/run", "{0}/new"),
        "--upcycle",
    ): "--upcycle needs the number of experts",
    (
        *("predict", "--model_dir={0}/run"),
        *("--input_file={0}/missing.txt", "--output_file={0}/out.txt"),
    ): "missing.txt cannot be read: No such file",
    (
        *("score", "--model_dir={0}/run", "--input_file={0}/a.txt"),
        *("--target_file={0}/missing.txt", "--output_file={0}/out.txt"),
    ): "missing.txt cannot be read",
    (
        *("score", "--model_dir={0}/run", "--input_file={0}/a.txt"),
        *("--target_file={0}/two.txt", "--output_file={0}/out.txt"),
    ): "a.txt has 1 lines and {0}/two.txt 2",
    (
        *("predict", "--model_dir={0}/run"),
        *("--input_file={0}/a.txt", "--output_file={0}/a.txt"),
    ): "{0}/a.txt would be overwritten",
    (
        *("score", "--model_dir={0}/run", "--input_file={0}/a.txt", "--overwrite"),
        *("--target_file={0}/a.txt", "--output_file={0}/a.txt"),
    ): "{0}/a.txt would be overwritten",
    (
        *("predict", "--model_dir={0}/run", "--input_file={0}/a.txt", "--overwrite"),
        "--output_file={0}/run/config.gin",
    ): "{0}/run/config.gin would be overwritten",
    (
        *("predict", "--model_dir={0}/run"),
        *("--input_file={0}/a.txt", "--output_file={0}/two.txt"),
    ): "two.txt exists, and predict did not write it",
    ("predict", "--model_dir={0}/run", *FILES, "--beams=4", "--temperature=0.5"): "exclude",
    ("predict", "--model_dir={0}/run", *FILES, "--top_k=4"): "no effect at a temperature of 0",
    ("predict", "--model_dir={0}/run", *FILES, "--temperature=-1"): "'-1' is not a",
    ("predict", "--model_dir={0}/run", *FILES, "--gin_file=no.gin"): "no gin file 'no.gin'",
    ("eval", "--model_dir={0}/run", "--gin_param=a b"): "--gin_param='a b' cannot be read",
    ("train", "--model_dir={0}/new", "--gin_file={0}/two.txt"): "{0}/two.txt cannot be read",
    (
        *("predict", "--model_dir={0}/run", *FILES),
        *("--devices=2", "--tpu=t"),
    ): "give only one of them",
    ("eval", "--model_dir={0}/run", "--data_dir={0}/no"): "There is no folder {0}/no",
    ("eval", "--model_dir={0}/run", "--vocabulary={0}/no"): "There is no vocabulary {0}/no",
    ("predict", "--model_dir={0}/run", *FILES, "--checkpoint=model.ckpt-9"): "no checkpoint",
    ("eval", "--model_dir={0}/run", "--checkpoint_steps=2", "--follow"): "has no effect",
    ("eval", "--model_dir={0}/run", "--tpu_zone=z"): "give --tpu as well",
    ("train", "--model_dir={0}/new"): "No model is named",
    ("train", "--model_dir={0}/new", "--gin_file=no.gin"): "no gin file 'no.gin'",
    ("train", "--model_dir={0}/new", *TINY, "--corpus={0}/*.md"): "No file matches",
    ("train", "--model_dir={0}/new", *TINY, "--corpus={0}/a.txt", "--task=x"): "only one",
    ("plan",): "No model is named",
    (
        "plan",
        *TINY,
        "--output_dir={0}/a.txt",
    ): "--output_dir={0}/a.txt is a file: name a folder",
    ("compile", *TINY, "--topology=v3:2x2", "--output_dir={0}/a.txt"): "a.txt is a file",
    (
        *("compare", "--models", "{0}/run", "--tasks=x"),
        "--output_dir={0}/a.txt",
    ): "--output_dir={0}/a.txt is a file",
    ("superglue", "--model_dir={0}/run", "--output_dir={0}/a.txt"): "a.txt is a file",
    ("experts", "--model_dir={0}/run", "--output_dir={0}/a.txt"): "a.txt is a file",
    ("export", "--model_dir={0}/run", "--export_dir={0}/a.txt"): "a.txt is a file",
    (
        *("export", "--model_dir={0}/run"),
        "--export_dir=gs://b/x",
    ): "--export_dir=gs://b/x is not on this machine, where export writes: name a folder",
    ("superglue", "--model_dir={0}/run", "--output_dir=gs://b/x"): "where superglue writes",
    ("experts", "--model_dir={0}/run", "--output_dir=gs://b/x"): "where experts writes",
    (
        *("prune", "--model_dir={0}/run", "--experts=2"),
        "--output_dir=gs://b/x",
    ): "where prune writes",
    (
        *("distil", "--model_dir={0}/new", "--teacher={0}/run", "--student=models/t5_tiny.gin"),
        "--cache_teacher=gs://b/x",
    ): "--cache_teacher=gs://b/x is not on this machine",
    ("plan", *TINY, "--compare", "no.gin"): "no gin file 'no.gin'",
    ("tasks", "--data_dir={0}/no"): "There is no folder {0}/no",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    untrained_run.make(folder / "run")
    cut = untrained_run.make(folder / "cut") / "config.gin"
    cut.write_text(cut.read_text()[:-3])
    (folder / "a.txt").write_text("a\n")
    (folder / "two.txt").write_text("a\nb\n")
    (folder / "notes").mkdir()
    (folder / "notes" / "compare.md").write_text("mine\n")
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[tuple[str, ...], tuple[int, str, bool]]:
    """The exit code and stderr of each command, and whether it imported TensorFlow."""
    commands = [[part.format(folder) for part in arguments] for arguments in MISTAKES]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(commands),
        cwd=gin_files.REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return dict(zip(MISTAKES, json.loads(done.stdout)))


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_answered_without_tensorflow(folder: Path, answers, arguments) -> None:
    code, err, has_tensorflow = answers[arguments]
    assert code in (1, 2)
    assert MISTAKES[arguments].format(folder) in err
    assert "Traceback" not in err
    assert not has_tensorflow
