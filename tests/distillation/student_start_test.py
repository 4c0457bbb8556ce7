"""What a new student starts from is checked before its teacher computes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import students
from sentencepiece import sentencepiece_model_pb2
from tiny_run import TinyRun, copy_of

from mtf_switch.distillation import distillation
from mtf_switch.runs import configured_run


@pytest.fixture(autouse=True)
def _no_teacher_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which the cache is reached."""
    monkeypatch.setattr(distillation, "_open_or_write_cache", None)


def start_from(checkpoint: Path | str) -> dict[str, str]:
    return {"utils.run.init_checkpoint": repr(str(checkpoint)), "distillation.init": "'none'"}


def test_a_checkpoint_that_is_not_there_is_refused_before_the_data_is_prepared(
    tiny: TinyRun, trained: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(configured_run, "make_run", None)
    params = start_from("/nowhere/model.ckpt-7")
    outcome = students.distil(tiny, trained, tmp_path / "new", params=params)
    assert outcome.code == 1
    assert "utils.run.init_checkpoint = '/nowhere/model.ckpt-7' does not exist" in outcome.err


@pytest.fixture
def of_other_vocabulary(trained: Path, tmp_path: Path) -> Path:
    """A model_dir whose vocabulary has the same pieces in another order."""
    folder = copy_of(trained, tmp_path / "other")
    before = (folder / "vocabulary.model").read_bytes()
    model = sentencepiece_model_pb2.ModelProto.FromString(before)
    a, b = model.pieces[10], model.pieces[11]
    a.piece, b.piece = b.piece, a.piece
    (folder / "vocabulary.model").write_bytes(model.SerializeToString())
    hashes = [
        hashlib.sha256(content).hexdigest()
        for content in (before, (folder / "vocabulary.model").read_bytes())
    ]
    config = (folder / "config.gin").read_text(encoding="utf-8")
    (folder / "config.gin").write_text(config.replace(*hashes), encoding="utf-8")
    return folder


def test_a_checkpoint_of_another_vocabulary_is_refused(
    tiny: TinyRun, trained: Path, of_other_vocabulary: Path, tmp_path: Path
) -> None:
    checkpoint = of_other_vocabulary / "model.ckpt-6"
    outcome = students.distil(tiny, trained, tmp_path / "new", params=start_from(checkpoint))
    assert outcome.code == 1
    assert f"The teacher {trained}/model.ckpt-6 has another vocabulary (" in outcome.err
    assert f"reads text with {of_other_vocabulary}/vocabulary.model (" in outcome.err
    assert f"utils.run.init_checkpoint = '{checkpoint}' needs a teacher with" in outcome.err


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"d_model": "24"}, "[24, 16] in the student, and [16, 16] in the teacher"),
        (
            {"num_layers": "2"},
            "it has 2 EncDecAttention layers in its decoder, and the teacher 1",
        ),
        (None, "is missing in the checkpoint and"),
    ],
)
def test_a_student_that_does_not_fit_is_refused_before_the_cache_is_written(
    tiny: TinyRun, trained: Path, tmp_path: Path, params, message: str
) -> None:
    if params is None:  # The dense student starts from the sparse teacher.
        params = start_from(trained / "model.ckpt-6")
    cache = f"--cache_teacher={tmp_path}/cache"
    outcome = students.distil(tiny, trained, tmp_path / "new", cache, params=params)
    assert outcome.code == 1
    assert message in outcome.err
    assert not (tmp_path / "cache").exists()
