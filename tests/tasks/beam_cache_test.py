"""seqio's Beam cache job on the embedded text, on Beam's local runner, and training from it.

Beam has a separate environment (requirements-beam.txt), which BEAM_PYTHON names.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tiny_run import BATCH, TinyRun

from mtf_switch.config.gin_files import REPOSITORY

BEAM_PYTHON = os.environ.get("BEAM_PYTHON")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not BEAM_PYTHON,
        reason="needs Beam: install requirements-beam.txt into an environment of its own and "
        "set BEAM_PYTHON to its Python",
    ),
]


def run_in_beams_environment(*command: str | Path) -> str:
    """Runs a command of BEAM_PYTHON's environment and returns what it prints.

    The embedded text is that of an environment's packages.
    """
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("beam") / "cache"
    run_in_beams_environment(
        Path(BEAM_PYTHON).parent / "seqio_cache_tasks",
        "--module_import=mtf_switch",
        "--module_import=tasks.register_all",
        "--tasks=embedded_text",
        f"--output_cache_dir={folder}",
        "--pipeline_options=--runner=DirectRunner",
    )
    return folder


def test_the_cache_holds_every_document(cache: Path) -> None:
    documents = run_in_beams_environment(
        BEAM_PYTHON,
        "-c",
        "import json, mtf_switch, tasks.pretraining as p;"
        "print(json.dumps(p.embedded_text().prepared.documents))",
    )
    for split, number in json.loads(documents.splitlines()[-1]).items():
        stats = json.loads((cache / "embedded_text" / f"stats.{split}.json").read_text())
        assert stats["examples"] == number


def test_training_reads_the_cache(cache: Path, tiny: TinyRun, tmp_path: Path) -> None:
    printed = run_in_beams_environment(
        BEAM_PYTHON,
        "run_switch.py",
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
    assert "is at step 2" in printed
