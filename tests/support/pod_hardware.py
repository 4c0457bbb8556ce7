"""The pods that gin/hardware/ describes."""

from __future__ import annotations

from mtf_switch.config import gin_config
from mtf_switch.planning.hardware import Hardware


def read_hardware(name: str = "tpu_v3") -> Hardware:
    """Reads a file of gin/hardware/."""
    gin_config.parse([f"hardware/{name}.gin"], [])
    return Hardware()
