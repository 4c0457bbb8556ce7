"""What holds for all tests."""

from __future__ import annotations

import os
from pathlib import Path

# Before TensorFlow is imported by any of them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gin
import hypothesis
import pytest
from tiny_run import TinyRun

# Before any test imports Mesh TensorFlow or T5, which it repairs as they are imported.
import mtf_switch  # noqa: F401

# The same examples in every run, and no deadline: the first graph of a process is slow. An
# example that fails is small already, and each smaller one would be a graph: no shrinking.
hypothesis.settings.register_profile(
    "repository",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=20,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repository")


@pytest.fixture(autouse=True)
def _forget_gin():
    """Leaves no gin binding of one test to the next."""
    yield
    gin.clear_config()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Commands on a tiny model, with a corpus and a cache that all tests share."""
    return TinyRun(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def trained(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model_dir at step 6 with checkpoints at 0, 3 and 6; never to be written to."""
    model_dir = tmp_path_factory.mktemp("trained") / "run"
    outcome = tiny.train(model_dir, "--steps=6")
    assert outcome.code == 0, outcome.err
    return model_dir
