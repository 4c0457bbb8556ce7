"""An export, loaded by a process that has plain TensorFlow and tensorflow-text only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import leftovers
import numpy as np
import pytest
import random_checkpoints
import tensorflow as tf
from tiny_run import TinyRun, copy_of, variables

from mtf_switch.conversion.convert import ConversionRequest, convert_checkpoint
from mtf_switch.conversion.tensor_names import MTF
from mtf_switch.errors import UserError
from mtf_switch.runs.run import Run
from mtf_switch.serving import export

# Answers requests with a SavedModel, and says which modules of this project were imported.
SERVER = """
import json, sys
import tensorflow as tf, tensorflow_text
model = tf.saved_model.load(sys.argv[1])
answers = []
for signature, inputs in json.load(sys.stdin):
    tensors = {name: tf.constant(texts, tf.string) for name, texts in inputs.items()}
    try:
        found = model.signatures[signature](**tensors)
        answers.append({name: x.numpy().tolist() for name, x in found.items()})
    except tf.errors.InvalidArgumentError as error:
        answers.append(str(error))
own = [n for n in sys.modules if n.split(".")[0] in ("mtf_switch", "tasks", "mesh_tensorflow")]
print(json.dumps([[{k: [v.decode() if isinstance(v, bytes) else v for v in values]
    for k, values in a.items()} if isinstance(a, dict) else a for a in answers], own]))
"""
# Of the run's own task. The first line begins with it, and the others do not.
PREFIX = "b"
LINES = ["bado <extra_id_0> kilume", "so(<extra_id_0><extra_id_1>) tu", "ve " * 60]
TARGETS = ["<extra_id_0> ba", "do", "kilu me"]
REQUESTS = [
    ["serving_default", {"inputs": LINES[:1]}],
    ["serving_default", {"inputs": LINES}],
    ["serving_default", {"inputs": [LINES[i % 3] for i in range(64)]}],
    ["score", {"inputs": LINES[:2], "targets": TARGETS[:2]}],
    ["score", {"inputs": ["a"], "targets": ["ve " * 60]}],
]


# Equal to the value of the model, so that its answers are those of predict and score.
SETTING = "Bitransformer.decode.temperature = 0.0"


@pytest.fixture(scope="module")
def lively(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model_dir with large random weights: a model of few steps decodes nothing.

    Its task has a prefix, as that of a run on own data.
    """
    folder = copy_of(trained, tmp_path_factory.mktemp("lively") / "run")
    with open(folder / "config.gin", "a", encoding="utf-8") as file:
        file.write(
            "MIXTURE_NAME = 'own'\nown_data.name = 'own'\nown_data.train_file = 'own.tsv'\n"
            f"own_data.prefix = {PREFIX!r}\n"
        )
    for file in folder.glob("model.ckpt-*"):
        file.unlink()
    chooser = np.random.default_rng(0)
    values = {
        name: chooser.normal(size=value.shape).astype(value.dtype)
        for name, value in variables(trained, 6).items()
        if "_slot_" not in name
    }
    random_checkpoints.write_mtf(
        folder / "model.ckpt-6", {**values, "global_step": np.int64(6)}
    )
    tf.compat.v1.train.update_checkpoint_state(str(folder), "model.ckpt-6")
    return folder


@pytest.fixture(scope="module")
def exported(tiny: TinyRun, lively: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    outcome = tiny.command(
        "export",
        f"--model_dir={lively}",
        f"--export_dir={folder}",
        *("--batch_sizes", "2", "--max_length=8"),
        f"--gin_param={SETTING}",
    )
    assert outcome.code == 0, outcome.err
    assert f"wrote {folder}/1: model.ckpt-6" in outcome.out
    assert f"{PREFIX!r} before each input that does not begin with it" in outcome.out
    return folder / "1"


@pytest.fixture(scope="module")
def answers(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> list:
    return ask(exported, REQUESTS, tmp_path_factory.mktemp("elsewhere"))


def ask(version: Path, requests: list, folder: Path) -> list:
    """Returns the answers of an export, from a process in a folder without this project."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", SERVER, str(version)],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, own = json.loads(done.stdout.splitlines()[-1])
    assert own == []
    return found


def test_a_model_of_one_hot_products_drops_no_token_either(
    tiny: TinyRun, lively: Path, answers: list, tmp_path: Path
) -> None:
    outcome = tiny.command(
        *("export", f"--model_dir={lively}", f"--export_dir={tmp_path}", "--max_length=8"),
        *("--batch_sizes", "2", "--gin_param", "SwitchFFN.dispatch = 'einsum'"),
        *("--gin_param", "ExpertCapacity.capacity_factor_eval = 0.1"),
        *("--gin_param", "ExpertCapacity.min_expert_capacity = 1"),
    )
    assert outcome.code == 0, outcome.err
    found = ask(tmp_path / "1", REQUESTS[:2], tmp_path)
    for given, expected in zip(found, answers):
        assert given["outputs"] == expected["outputs"]
        np.testing.assert_allclose(given["scores"], expected["scores"], atol=1e-4)


def test_batches_of_any_size_have_the_answers_of_predict(
    tiny: TinyRun, lively: Path, answers: list, tmp_path: Path
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    outcome = tiny.command(
        *("predict", f"--model_dir={lively}", f"--input_file={lines}", "--max_length=8"),
        f"--output_file={tmp_path}/out.txt",
    )
    assert outcome.code == 0, outcome.err
    wanted = (tmp_path / "out.txt").read_text(encoding="utf-8").split("\n")[:3]
    assert len(set(wanted)) > 1
    one, three, many = answers[:3]
    assert three["outputs"] == wanted
    assert one["outputs"] == wanted[:1]
    assert many["outputs"] == [wanted[i % 3] for i in range(64)]
    np.testing.assert_allclose(one["scores"], three["scores"][:1], atol=1e-5)
    np.testing.assert_allclose(many["scores"][:3], three["scores"], atol=1e-5)


@pytest.mark.slow
def test_several_batch_sizes_give_the_same_answers(
    tiny: TinyRun, lively: Path, answers: list, tmp_path: Path
) -> None:
    outcome = tiny.command(
        *("export", f"--model_dir={lively}", f"--export_dir={tmp_path}/served"),
        *("--batch_sizes", "1", "4", "--max_length=8"),
    )
    assert outcome.code == 0, outcome.err
    model = tf.saved_model.load(str(tmp_path / "served" / "1"))
    # One of size 1, one of size 4 with padding, and 64 = 16 x 4.
    for lines, wanted in zip((1, 3, 64), answers):
        texts = [LINES[i % 3] for i in range(lines)]
        found = model.signatures["serving_default"](inputs=tf.constant(texts))
        assert [text.decode() for text in found["outputs"].numpy()] == wanted["outputs"]
        np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-5, atol=1e-5)


def test_scores_are_those_of_score(
    tiny: TinyRun, lively: Path, answers: list, tmp_path: Path
) -> None:
    for name, lines in (("in", LINES[:2]), ("to", TARGETS[:2])):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    outcome = tiny.command(
        *("score", f"--model_dir={lively}", f"--input_file={tmp_path}/in.txt"),
        *(f"--target_file={tmp_path}/to.txt", f"--output_file={tmp_path}/out.txt"),
    )
    assert outcome.code == 0, outcome.err
    wanted = np.loadtxt(tmp_path / "out.txt")
    np.testing.assert_allclose(answers[3]["scores"], wanted, rtol=1e-5, atol=1e-5)


def test_score_refuses_a_text_that_is_too_long(answers: list) -> None:
    assert "A text of targets has more than the 16 tokens" in answers[4]


def test_a_version_has_what_a_server_needs(exported: Path) -> None:
    extra = exported / "assets.extra"
    info = json.loads((extra / "export.json").read_text(encoding="utf-8"))
    assert (info["checkpoint"], info["batch_sizes"]) == ("model.ckpt-6", [2])
    assert (info["gin_file"], info["gin_param"]) == ([], [SETTING])
    assert info["task_prefix"] == PREFIX
    records = list(tf.data.TFRecordDataset(str(extra / "tf_serving_warmup_requests")))
    assert len(records) == 2
    assert (exported / "assets" / "sentencepiece.model").stat().st_size > 1000
    assert not list(exported.parent.glob(".part*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--beams=2", "--temperature=1"), "Beam search and sampling exclude each other"),
        (("--batch_sizes", "0"), "is not a whole number of at least 1"),
        (("--checkpoint", "model.ckpt-3", "model.ckpt-6"), "pass one --checkpoint"),
        (("--checkpoint=model.ckpt-9",), "There is no checkpoint"),
    ],
)
def test_mistakes_are_refused(
    tiny: TinyRun, trained: Path, tmp_path: Path, arguments, message
) -> None:
    outcome = tiny.command(
        "export", f"--model_dir={trained}", f"--export_dir={tmp_path}/x", *arguments
    )
    assert outcome.code in (1, 2)
    assert message in outcome.err
    assert not (tmp_path / "x").exists()


def test_what_a_killed_process_left_is_removed(tmp_path: Path, monkeypatch) -> None:
    def fail(*_, **__):
        raise OSError("stop")

    left = leftovers.make_folder(tmp_path / ".export")
    monkeypatch.setattr(export, "ServedModel", lambda *_: None)
    monkeypatch.setattr(export, "_write_vocabularies", fail)
    info = {"samples": False, "task_prefix": ""}
    with pytest.raises(UserError, match="stop"):
        export.export(None, "model.ckpt-1", str(tmp_path), [1], info)
    assert not left.exists()


def test_a_model_that_was_never_trained_is_refused(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "config.gin").write_bytes((trained / "config.gin").read_bytes())
    flags = (f"--model_dir={new}", f"--export_dir={tmp_path}/x")
    outcome = tiny.command("export", *flags)
    assert outcome.code == 1
    assert "holds no checkpoint yet: train it first" in outcome.err
    for file in trained.glob("model.ckpt-0.*"):
        (new / file.name).write_bytes(file.read_bytes())
    for chosen in ((), ("--checkpoint=model.ckpt-0",)):
        outcome = tiny.command("export", *flags, *chosen)
        assert outcome.code == 1
        assert f"{new}/model.ckpt-0 has the weights before the first" in outcome.err
    assert not (tmp_path / "x").exists()


class Built(tf.Module):
    """Has what `export` needs of a ServedModel, and lets a test act while it is built."""

    while_built: Callable[[], None]

    def __init__(self, *_: object):
        super().__init__()
        type(self).while_built()
        self.module = tf.Module()
        texts = tf.TensorSpec([None], tf.string, "inputs")
        self.predict = tf.function(lambda inputs: {"outputs": inputs}).get_concrete_function(
            texts
        )
        self.score = self.predict


@pytest.fixture
def write_version(tiny: TinyRun, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Exports into a folder without a model, and calls a function meanwhile."""
    settings, vocabulary = tiny.load(trained)

    def write(folder: Path, while_built: Callable[[], None]) -> str:
        monkeypatch.setattr(Built, "while_built", while_built, raising=False)
        monkeypatch.setattr(export, "ServedModel", Built)
        info = {"samples": False, "task_prefix": ""}
        run = Run(settings, vocabulary, str(trained))
        return export.export(run, "model.ckpt-6", str(folder), [1], info)

    return write


def test_exports_at_the_same_time_are_versions_of_their_own(
    write_version: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, others = os.rename, iter(("1", "2"))

    def rename_late(part: str, version: str) -> None:
        """Is overtaken twice by another process, after the number is chosen."""
        if name := next(others, None):
            (tmp_path / "x" / name / "variables").mkdir(parents=True)
        rename(part, version)

    monkeypatch.setattr(export.os, "rename", rename_late)
    assert write_version(tmp_path / "x", lambda: None) == f"{tmp_path}/x/3"
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["1", "2", "3"]
    assert (tmp_path / "x" / "3" / "saved_model.pb").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_built(
    write_version: Callable, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/x cannot be written: .*Not a directory"):
        write_version(tmp_path / "file" / "x", lambda: pytest.fail("was built"))


def test_a_converted_model_has_no_steps_of_its_own(
    tiny: TinyRun, trained: Path, tmp_path: Path, monkeypatch
) -> None:
    exported = []
    monkeypatch.setattr(export, "export", lambda run, path, *_: exported.append(path))
    request = ConversionRequest(
        MTF, MTF, str(trained / "model.ckpt-0"), str(tmp_path / "converted")
    )
    convert_checkpoint(request)
    outcome = tiny.command(
        "export", f"--model_dir={tmp_path}/converted", f"--export_dir={tmp_path}/x"
    )
    assert outcome.code == 0, outcome.err
    assert exported == [f"{tmp_path}/converted/model.ckpt-0"]
