"""The progress bar of a training run, and the log beside it."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtf_switch.model_dirs import train_log
from mtf_switch.runs.progress import Progress, StepResults


@pytest.mark.usefixtures("without_bars")
def test_steps_count_without_a_bar(tmp_path: Path) -> None:
    settings = types.SimpleNamespace(tokens_per_batch=8, summary_steps=1, train_steps=9)
    run = types.SimpleNamespace(settings=settings, model_dir=str(tmp_path))
    with tf.Graph().as_default():
        progress = Progress(run, 5)
        for loss in (3.0, 2.0):
            progress.add(StepResults(loss, {}, np.array([6.0, 4.0])), 0.5)
        progress.close()
    assert progress.step == 7
    assert [step.step for step in train_log.read(str(tmp_path))] == [6, 7]
