"""The installed packages as they are without the project's repairs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from unittest import mock

import gin
import tensorflow.compat.v1 as tf

ROOT = Path(__file__).resolve().parents[2]


def run_python(*code: str) -> tuple[str, str]:
    """Runs code in a new process; returns its standard output and its standard error."""
    env = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    # Without this variable, Python uses another salt for hashes in each process.
    env.pop("PYTHONHASHSEED", None)
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", "\n".join(map(textwrap.dedent, code))],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def load_from_disk(module: types.ModuleType) -> types.ModuleType:
    """Loads a second copy of a module, which the import hooks do not repair."""
    spec = importlib.util.spec_from_file_location(module.__name__, module.__file__)
    unrepaired = importlib.util.module_from_spec(spec)
    # Flags and gin's names can be registered only once.
    no_flags = {"DEFINE_integer": mock.DEFAULT, "DEFINE_bool": mock.DEFAULT}
    with (
        mock.patch.multiple(tf.flags, **no_flags),
        mock.patch.object(gin, "configurable", lambda class_: class_),
    ):
        spec.loader.exec_module(unrepaired)
    return unrepaired
