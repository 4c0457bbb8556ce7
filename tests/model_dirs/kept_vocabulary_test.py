"""A run reads text with the vocabulary that its model_dir keeps, even without other files."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import VOCABULARY, TinyRun, copy_of, made_up_text

from mtf_switch.config import saved_config
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import kept_vocabulary

LINES = "ba do ki lu\nme no pa\n"


def score(tiny: TinyRun, model_dir: Path, folder: Path, *arguments: str):
    """Scores two lines; returns the outcome, and the scores if it has any."""
    folder.mkdir(exist_ok=True)
    (folder / "in.txt").write_text(LINES)
    (folder / "targets.txt").write_text("do ba\nno\n")
    output = folder / "scores.txt"
    outcome = tiny.command(
        "score",
        f"--model_dir={model_dir}",
        f"--input_file={folder / 'in.txt'}",
        f"--target_file={folder / 'targets.txt'}",
        f"--output_file={output}",
        *arguments,
    )
    return outcome, output.read_text() if output.exists() else None


@pytest.fixture
def far_from_its_text(trained: Path, tmp_path: Path) -> Path:
    """A copy of the model_dir, without its corpus."""
    model_dir = copy_of(trained, tmp_path / "far")
    config = model_dir / "config.gin"
    text = re.sub(
        r"text_files\.files = .*", "text_files.files = '/nowhere/*.txt'", config.read_text()
    )
    config.write_text(text)
    return model_dir


@pytest.fixture
def other_vocabulary(tmp_path: Path) -> Path:
    """Another SentencePiece model with as many pieces."""
    from tasks.vocabulary import train_vocabulary

    text = made_up_text(50_000, seed=1)
    path = tmp_path / "other.model"
    path.write_bytes(train_vocabulary([text], len(text), vocab_size=VOCABULARY - 100))
    return path


def test_a_run_keeps_the_bytes_and_its_configuration_their_hash(
    tiny: TinyRun, trained: Path
) -> None:
    (cached,) = (tiny.folder / "cache").glob("text_files-*/vocabulary_300.model")
    kept = (trained / "vocabulary.model").read_bytes()
    assert kept == cached.read_bytes()
    config = (trained / "config.gin").read_text()
    assert f"run_vocabulary.sha256 = '{hashlib.sha256(kept).hexdigest()}'\n" in config
    assert "run_vocabulary.sentinels = 100\n" in config


def test_score_needs_neither_the_text_nor_its_cache_and_gives_the_same(
    tiny: TinyRun, trained: Path, far_from_its_text: Path, tmp_path: Path
) -> None:
    outcome, scores = score(tiny, trained, tmp_path)
    assert outcome.code == 0, outcome.err
    away = TinyRun(tmp_path / "without a cache")
    outcome, again = score(away, far_from_its_text, tmp_path / "away")
    assert outcome.code == 0, outcome.err
    assert again == scores
    assert not list(away.folder.glob("cache/text_files-*"))


def test_another_vocabulary_is_refused_by_its_content(
    tiny: TinyRun, trained: Path, other_vocabulary: Path, tmp_path: Path
) -> None:
    outcome, _ = score(tiny, trained, tmp_path, f"--vocabulary={other_vocabulary}")
    assert outcome.code == 1
    for path in (other_vocabulary, trained / "vocabulary.model"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert f"SHA-256 {digest[:16]}, {VOCABULARY} ids" in outcome.err
    assert "Remove --vocabulary" in outcome.err


def test_training_goes_on_with_the_same_bytes_under_another_name(
    tiny: TinyRun, trained: Path, other_vocabulary: Path, tmp_path: Path
) -> None:
    """The run is at its last step already, so no graph is built."""
    model_dir = copy_of(trained, tmp_path / "run")
    same = shutil.copy(trained / "vocabulary.model", tmp_path / "same.model")
    outcome = tiny.command("train", f"--model_dir={model_dir}", f"--vocabulary={same}")
    assert outcome.code == 0, outcome.err
    outcome = tiny.command(
        "train", f"--model_dir={model_dir}", f"--vocabulary={other_vocabulary}"
    )
    assert outcome.code == 1
    assert "has another vocabulary" in outcome.err


@pytest.mark.parametrize("content", [None, b"no model", b""])
def test_a_kept_file_that_is_missing_or_not_the_runs_is_refused(
    trained: Path, tmp_path: Path, content: bytes | None
) -> None:
    model_dir = copy_of(trained, tmp_path / "run")
    (model_dir / "vocabulary.model").unlink()
    if content is not None:
        (model_dir / "vocabulary.model").write_bytes(content)
    with pytest.raises(UserError, match=r"vocabulary\.model .*Restore the file"):
        kept_vocabulary.find(str(model_dir))


def test_a_folder_without_a_checkpoint_keeps_nothing(trained: Path, tmp_path: Path) -> None:
    """A run that was killed before its first checkpoint starts again, with any vocabulary."""
    for name in ("config.gin", "vocabulary.model"):
        shutil.copy(trained / name, tmp_path / name)
    assert kept_vocabulary.find(str(tmp_path)) is None
    assert kept_vocabulary.find(str(tmp_path / "nowhere")) is None


def test_inputs_and_targets_may_have_vocabularies_of_their_own(
    trained: Path, other_vocabulary: Path, tmp_path: Path
) -> None:
    from mtf_switch.config import gin_config

    model_dir = copy_of(trained, tmp_path / "pair")
    pair = (
        kept_vocabulary.read(str(trained / "vocabulary.model"), 100),
        kept_vocabulary.read(str(other_vocabulary), 3),
    )
    kept_vocabulary.write(str(model_dir), pair)
    saved_config.load(str(model_dir), [], ["run_vocabulary.sha256 = None"])
    kept_vocabulary.bind(pair)
    (model_dir / "config.gin").write_text(gin_config.to_text())
    assert kept_vocabulary.find(str(model_dir)) == pair
    assert (
        model_dir / "vocabulary.targets.model"
    ).read_bytes() == other_vocabulary.read_bytes()


def test_a_folder_that_is_not_on_this_machine(trained: Path) -> None:
    """TensorFlow's file system in memory stands for gs://."""
    model, _ = kept_vocabulary.find(str(trained))
    for name in ("config.gin", "checkpoint"):
        saved_config.write_file("ram://far/run", name, (trained / name).read_bytes())
    kept_vocabulary.write("ram://far/run", (model, model))
    assert kept_vocabulary.find("ram://far/run") == (model, model)
    assert kept_vocabulary.find("ram://far/none") is None


def test_the_configuration_of_another_run_needs_its_vocabulary(
    tiny: TinyRun, trained: Path, other_vocabulary: Path, tmp_path: Path
) -> None:
    """A run is repeated with its config.gin."""
    lines = (trained / "config.gin").read_text().splitlines(keepends=True)
    repeated = tmp_path / "repeated.gin"
    repeated.write_text("".join(lines))
    arguments = ("train", f"--gin_file={repeated}", f"--model_dir={tmp_path / 'new'}")
    outcome = tiny.command(*arguments, f"--vocabulary={other_vocabulary}")
    assert outcome.code == 1
    own = kept_vocabulary.find(str(trained))[0].sha256
    assert f"The configuration is for the vocabulary with the SHA-256 {own}" in outcome.err
    assert f"this run has {other_vocabulary} (SHA-256 " in outcome.err
    assert not list((tmp_path / "new").glob("*.model"))


@pytest.mark.parametrize(
    "binding", ["sha256 = 5", "sentinels = 'many'", "sentinels = [1, 2, 3]"]
)
def test_the_hash_in_the_configuration_is_data_that_is_checked(
    trained: Path, tmp_path: Path, binding: str
) -> None:
    model_dir = copy_of(trained, tmp_path / "run")
    with (model_dir / "config.gin").open("a") as file:
        file.write(f"run_vocabulary.{binding}\n")
    with pytest.raises(UserError, match=r"run_vocabulary\.\w+ is .*, but it must be"):
        kept_vocabulary.find(str(model_dir))


# Runs `eval` with each vocabulary.
MISTAKES = """
import sys
from mtf_switch.cli import main
model_dir, *vocabularies = sys.argv[1:]
for vocabulary in vocabularies:
    assert main.main(["eval", f"--model_dir={model_dir}", f"--vocabulary={vocabulary}"]) == 1
assert "tensorflow" not in sys.modules
"""


def test_a_wrong_vocabulary_is_refused_before_tensorflow_is_imported(
    trained: Path, other_vocabulary: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", MISTAKES, trained, "/nope", other_vocabulary],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    messages = result.stderr.splitlines()
    assert [m.split(": ", 1)[1].split(",")[0].split(" (")[0] for m in messages] == [
        "There is no vocabulary /nope. --vocabulary is a SentencePiece model",
        f"--vocabulary={other_vocabulary} has another vocabulary",
    ]
