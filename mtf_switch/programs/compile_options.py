"""The options with which XLA compiles the program of one core for all cores of a mesh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax._src.lib import xla_client


def make_options(devices: Sequence[Any]) -> Any:
    """Returns options for one replica on each device, and no partitioning by the compiler.

    Args:
      devices: JAX's devices, in the order of the cores.
    """
    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = len(devices), 1
    build = options.executable_build_options
    build.num_replicas, build.num_partitions = len(devices), 1
    build.use_spmd_partitioning = False
    build.device_assignment = xla_client.DeviceAssignment.create(
        np.array([device.id for device in devices]).reshape(-1, 1)
    )
    return options
