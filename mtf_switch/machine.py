"""Describes the machine on which a result was measured."""

from __future__ import annotations

import os
import platform


def describe() -> str:
    """Returns the number of cores, the processor and the software versions, for a report."""
    import tensorflow as tf

    return (
        f"{os.cpu_count()} cores ({processor_name()}), Python {platform.python_version()}, "
        f"TensorFlow {tf.__version__}"
    )


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
