"""`predict` and `score` with --checkpoint."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import line_files
import pytest
from tiny_run import TinyRun, copy_of

from mtf_switch.runs import prediction

PAIRS = [("ba do ki", "lu me"), ("no pa", "ri so tu")]


def test_each_checkpoint_gets_a_file_with_its_results(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    outcome, latest = line_files.score(tiny, trained, PAIRS, tmp_path)
    assert outcome.code == 0, outcome.err
    (tmp_path / "scores.txt").unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in trained.glob("model.ckpt-6.*"):
        shutil.copy(path, elsewhere)
    checkpoints = ["--checkpoint", "model.ckpt-0", f"{elsewhere}/model.ckpt-6"]
    outcome, scores = line_files.score(tiny, trained, PAIRS, tmp_path, *checkpoints)
    assert outcome.code == 0, outcome.err
    assert scores == [], "several checkpoints write no file without a step"
    first, last = (
        [float(line) for line in (tmp_path / f"scores.txt-{step}").read_text().splitlines()]
        for step in (0, 6)
    )
    assert last == latest
    assert len(first) == len(PAIRS)
    assert first != last
    assert f"The weights are those of {elsewhere}/model.ckpt-6; {trained}/config.gin" in (
        outcome.err
    )


def test_the_step_is_that_of_the_weights_if_training_saves_another_one(
    tiny: TinyRun, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(trained, tmp_path / "run")
    read = []

    def score_lines(run_, checkpoint, **_):
        read.append(checkpoint)
        for path in run.glob("model.ckpt-6.*"):
            shutil.copy(path, run / path.name.replace("-6.", "-9."))
        (run / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-9"\n')
        return prediction.Results([-1.0] * len(PAIRS), 0.0)

    monkeypatch.setattr(prediction, "score_lines", score_lines)
    outcome, _ = line_files.score(tiny, run, PAIRS, tmp_path)
    assert outcome.code == 0, outcome.err
    assert "2 lines, step 6, " in outcome.out
    assert read == [f"{run}/model.ckpt-6"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["model.ckpt-4"], r"There is no checkpoint .*/model.ckpt-4: .* has model.ckpt-0, mode"),
        (["4"], "--checkpoint=4 does not name a checkpoint: its name ends in a step, as in"),
        (["{run}"], "does not name a checkpoint: .* has model.ckpt-0, model.ckpt-3, model.c"),
        (["model.ckpt-0", "{run}/model.ckpt-0"], "Two checkpoints .* are of the same step"),
        (["gs://no-such-bucket/model.ckpt-3"], "gs://no-such-bucket"),
    ],
)  # fmt: skip
def test_mistakes_are_refused(
    tiny: TinyRun, trained: Path, tmp_path: Path, values: list[str], message: str
) -> None:
    flags = ["--checkpoint", *(value.replace("{run}", str(trained)) for value in values)]
    outcome, _ = line_files.score(tiny, trained, PAIRS, tmp_path, *flags)
    assert outcome.code == 1
    assert re.search(message, outcome.err), outcome.err


def test_a_checkpoint_with_another_vocabulary_is_refused(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    other = copy_of(trained, tmp_path / "other")
    config = (other / "config.gin").read_text()
    (other / "config.gin").write_text(config.replace("sentinels = 100", "sentinels = 50"))
    flag = f"--checkpoint={other}/model.ckpt-3"
    outcome, _ = line_files.score(tiny, trained, PAIRS, tmp_path, flag)
    assert outcome.code == 1
    assert f"The run of {other}/model.ckpt-3 has another vocabulary" in outcome.err


def test_an_output_file_of_another_program_is_not_replaced(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "scores.txt-3").write_text("mine\n")
    flags = ["--checkpoint", "model.ckpt-0", "model.ckpt-3"]
    outcome, _ = line_files.score(tiny, trained, PAIRS, tmp_path, *flags)
    assert outcome.code == 1
    assert "scores.txt-3 exists, and score did not write it" in outcome.err
