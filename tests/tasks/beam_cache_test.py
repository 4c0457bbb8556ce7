"""seqio's Beam cache job on the embedded text, on Beam's local runner, and training from it.

Beam has an environment of its own (requirements-beam.txt), which BEAM_PYTHON names.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import seqio
from tiny_run import BATCH, TinyRun

from mtf_switch import run_config

BEAM_PYTHON = os.environ.get("BEAM_PYTHON")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not BEAM_PYTHON,
        reason="needs Beam: install requirements-beam.txt into an environment of its own and "
        "set BEAM_PYTHON to its Python",
    ),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("beam") / "cache"
    done = subprocess.run(
        [
            str(Path(BEAM_PYTHON).parent / "seqio_cache_tasks"),
            "--module_import=mtf_switch",
            "--module_import=tasks.registered",
            "--tasks=embedded_text",
            f"--output_cache_dir={folder}",
            "--pipeline_options=--runner=DirectRunner",
        ],
        cwd=run_config.REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(run_config.REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_cache_holds_every_document_as_ids(cache: Path) -> None:
    import tasks

    tasks.register()
    seqio.set_global_cache_dirs([str(cache)])
    task = seqio.TaskRegistry.get("embedded_text")
    corpus = task.source.corpus
    for split in ("train", "validation"):
        stats = task.get_cached_stats(split)
        assert stats["examples"] == corpus.prepared.documents[split]
    lengths = {"inputs": 32, "targets": 8}
    dataset = task.get_dataset(lengths, "validation", use_cached=True, shuffle=False, seed=0)
    example = next(dataset.as_numpy_iterator())
    assert np.count_nonzero(example["inputs"]) == 32


def test_training_reads_the_cache_alone(
    cache: Path, tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.pretraining import CorpusSource

    def not_asked(*_, **__):
        raise AssertionError("the source was read")

    monkeypatch.setattr(CorpusSource, "get_dataset", not_asked)
    monkeypatch.setattr(tiny.__class__, "environment", {})
    outcome = tiny.command(
        "train",
        f"--gin_file={tiny.gin_file}",
        "--task=embedded_text",
        f"--model_dir={tmp_path / 'run'}",
        "--steps=2",
        "--gin_param=num_experts = 4",
        "--gin_param=dropout_rate = 0.0",
        "--gin_param=utils.run.sequence_length = {'inputs': 32, 'targets': 8}",
        f"--gin_param=utils.run.batch_size = {BATCH}",
        "--gin_param=mesh_train_dataset_fn.use_cached = True",
        f"--gin_param=task_cache.folders = ['{cache}']",
    )
    assert outcome.code == 0, outcome.err
