"""Describes the machine and the code with which a result was measured."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parent


def describe() -> str:
    """Returns the number of cores, the processor and the software versions, for a report."""
    import tensorflow as tf

    return (
        f"{describe_cores()} ({processor_name()}), Python {platform.python_version()}, "
        f"TensorFlow {tf.__version__}"
    )


def describe_cores() -> str:
    """Returns "1 core", "2 cores", ...: those that this process may use."""
    can_count = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if can_count else os.cpu_count() or 1
    return f"{count} core{'s' * (count != 1)}"


def processor_name() -> str:
    """Returns the processor's model, or its architecture if the model is not known."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            ]
        return names[0]
    except (OSError, IndexError):
        return platform.machine()


def count_memory() -> int:
    """Returns the bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read_peak_memory() -> int:
    """Returns the bytes of memory that this process has needed at most so far.

    On Linux, `getrusage` also counts the process that started this one, if it was larger.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            peak = next(line for line in file if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    except (OSError, StopIteration):
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def find_commit() -> str:
    """Returns the commit of the code, with "and changes" if files differ from it.

    Files in docs do not count: `reproduce` and the benchmarks write their results there. In a
    wheel, `setup.py` has written the commit into a file.
    """
    written = _PACKAGE / "commit.txt"
    if written.is_file():
        return written.read_text(encoding="utf-8").strip()
    if not (_PACKAGE.parent / ".git").exists():
        return "unknown"
    try:
        commit = _run_git("describe", "--always").stdout.strip()
        changed = _run_git("diff", "--quiet", "HEAD", "--", ".", ":(exclude)docs")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit} and changes" if changed.returncode else commit


def _run_git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(_PACKAGE.parent), *arguments],
        capture_output=True,
        text=True,
        check=arguments[0] != "diff",
        timeout=10,
    )
