"""Settings and fixtures that all tests share."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable
from pathlib import Path

# Before any test imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Before any test makes JAX look for devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import gin
import hypothesis
import pytest
from tiny_run import Outcome, TinyRun, made_up_text
from tqdm import tqdm

# Before any test imports Mesh TensorFlow or T5: the project repairs them as they are imported.
import mtf_switch  # noqa: F401

# A graph has hundreds of thousands of long-lived objects. With Python's default thresholds,
# the search for garbage among them takes a tenth of the time of building it.
gc.set_threshold(100_000, 20, 20)

# The number of examples for each property: in the default suite, and in `make test-all`.
FEW_EXAMPLES, MANY_EXAMPLES = 10, 40


def pytest_configure(config: pytest.Config) -> None:
    """Makes every run use the same examples, and more of them where slow tests run.

    There is no deadline, because the first graph of a process is slow, and no shrinking,
    because each smaller example would be another graph.
    """
    is_default = config.option.markexpr == "not slow"
    hypothesis.settings.register_profile(
        "repository",
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=FEW_EXAMPLES if is_default else MANY_EXAMPLES,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("repository")


@pytest.fixture(autouse=True)
def _forget_gin():
    """Clears the gin bindings after each test."""
    yield
    gin.clear_config()


@pytest.fixture
def without_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns progress bars off, as TQDM_DISABLE=1 does when tqdm is imported."""
    silent = functools.partialmethod(tqdm.__init__, disable=True)
    monkeypatch.setattr(tqdm, "__init__", silent)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Runs commands on a tiny model; all tests share its corpus and cache."""
    return TinyRun(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def trained(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model_dir at step 6 with checkpoints at 0, 3 and 6; read-only."""
    model_dir = tmp_path_factory.mktemp("trained") / "run"
    outcome = tiny.train(model_dir, "--steps=6")
    assert outcome.code == 0, outcome.err
    return model_dir


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with hand-written examples of every TFDS data set; read-only."""
    import tfds_examples

    folder = tmp_path_factory.mktemp("tfds")
    tfds_examples.write_all(folder)
    return folder


@pytest.fixture(scope="session")
def text_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of the hand-written examples, without sentinels."""
    import golden_texts

    from tasks.vocabulary import train_vocabulary

    path = tmp_path_factory.mktemp("vocabulary") / "sentencepiece.model"
    texts = [*golden_texts.list_texts(), made_up_text(20_000)]
    path.write_bytes(train_vocabulary(texts, sum(map(len, texts)), vocab_size=256))
    return path


@pytest.fixture(scope="session")
def finetune(tiny: TinyRun, tfds_dir: Path) -> Callable[..., Outcome]:
    """Fine-tunes a checkpoint on SuperGLUE's hand-written examples for 4 steps."""

    def run(checkpoint: Path, model_dir: Path, *arguments: str) -> Outcome:
        return tiny.command(
            "finetune",
            "--task=super_glue_v102_proportional",
            f"--init_checkpoint={checkpoint}",
            f"--model_dir={model_dir}",
            f"--data_dir={tfds_dir}",
            "--steps=4",
            "--gin_param=utils.run.sequence_length = {'inputs': 32, 'targets': 16}",
            "--gin_param=utils.run.batch_size = 8",
            "--gin_param=utils.run.save_checkpoints_steps = 2",
            *arguments,
        )

    return run


@pytest.fixture(scope="session")
def finetuned(finetune, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model_dir at step 4 with checkpoints at 0, 2 and 4; read-only."""
    model_dir = tmp_path_factory.mktemp("finetuned") / "run"
    outcome = finetune(trained, model_dir)
    assert outcome.code == 0, outcome.err
    return model_dir
