"""What a result was made on, in words."""

from __future__ import annotations

import os
import platform


def description() -> str:
    """Cores, processor and versions, for a report."""
    import tensorflow as tf

    return (
        f"{os.cpu_count()} cores ({processor()}), Python {platform.python_version()}, "
        f"TensorFlow {tf.__version__}"
    )


def processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            ]
        return names[0]
    except (OSError, IndexError):
        return platform.machine()
