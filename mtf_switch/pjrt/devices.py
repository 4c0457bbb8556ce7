"""The devices that PJRT finds, arranged as the cores of a mesh.

JAX fixes its platform and the number of its CPU devices when it first looks for devices, so a
process uses one of them.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtf_switch.errors import UserError
from mtf_switch.pjrt import lost_process, processes
from mtf_switch.pjrt.processes import Processes

_CPU_DEVICES = "--xla_force_host_platform_device_count"
_PLATFORMS = "JAX_PLATFORMS"
# Files of the kernel's drivers -> the device.
_ACCELERATORS = {"/dev/nvidia[0-9]*": "GPU", "/dev/accel*": "TPU", "/dev/vfio/[0-9]*": "TPU"}


def find(mesh_shape: Sequence[tuple[str, int]], group: Processes) -> np.ndarray:
    """Finds the devices of a mesh.

    Args:
      mesh_shape: The (name, size) pairs of its axes.
      group: The processes that run together.

    Returns:
      The JAX devices as an array of the mesh's shape. On a TPU, neighbours in the mesh are
      near.

    Raises:
      UserError: If there are fewer devices than cores, or JAX cannot use them.
    """
    sizes = [size for _, size in mesh_shape]
    cores = int(np.prod(sizes, dtype=int))
    _prepare_cpu_devices(cores, group)
    processes.join(group)
    if group.count > 1:
        lost_process.explain_abort()
    devices = _list_devices()
    _check_enough(devices, cores, group)
    return _arrange(sizes, devices[:cores])


def get_platform(devices: np.ndarray) -> str:
    """Returns "cpu", "gpu" or "tpu"."""
    return devices.flat[0].platform


def _prepare_cpu_devices(cores: int, group: Processes) -> None:
    """Makes JAX divide the processor into devices, in case that it finds no others.

    Raises:
      UserError: If the processes cannot have equal parts of the mesh.
    """
    if cores % group.count:
        raise UserError(
            f"The mesh has {cores} cores, which {group.count} processes cannot share equally. "
            "Change --num_processes or --devices."
        )
    flags = os.environ.get("XLA_FLAGS", "")
    if _CPU_DEVICES not in flags:
        count = f"{_CPU_DEVICES}={cores // group.count}"
        os.environ["XLA_FLAGS"] = f"{flags} {count}".strip()


def _list_devices() -> list[Any]:
    import jax

    _check_plugin()
    try:
        return jax.devices()
    # A platform that is not there, or that JAX has no plugin for.
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"JAX cannot use the devices that {_PLATFORMS}={os.environ.get(_PLATFORMS, '')!r} "
            f"names: {reason}. Install JAX's plugin for them (docs/tpu.md), or set "
            f"{_PLATFORMS}=cpu."
        ) from error


def _check_plugin() -> None:
    """Checks that JAX has a plugin for an accelerator of this machine.

    Without one, it would use the processor, and only say so in its log.

    Raises:
      UserError: If it has none.
    """
    import jax

    if os.environ.get(_PLATFORMS):
        return
    found = next((named for path, named in _ACCELERATORS.items() if glob.glob(path)), None)
    if found and jax.default_backend() == "cpu":
        raise UserError(
            f"This machine has a {found}, but JAX has no plugin for it: install that as "
            f"docs/tpu.md describes, or set {_PLATFORMS}=cpu to use the processor."
        )


def _check_enough(devices: Sequence[Any], cores: int, group: Processes) -> None:
    if len(devices) < cores:
        kind = devices[0].platform.upper()
        fix = f"--devices={len(devices)}"
        if kind == "CPU" and _CPU_DEVICES in os.environ.get("XLA_FLAGS", ""):
            fix += f", or another {_CPU_DEVICES} in XLA_FLAGS"
        raise UserError(
            f"The mesh has {cores} cores, but JAX finds only {len(devices)} {kind} "
            f"device{'s' * (len(devices) > 1)}. Pass {fix}."
        )
    if group.count > 1 and len(devices) > cores:
        raise UserError(
            f"The mesh has {cores} cores, but the {group.count} processes have {len(devices)} "
            f"devices, and a run in several processes uses all of them: pass "
            f"--devices={len(devices)}."
        )


def _arrange(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    if not sizes:
        return np.array(devices)
    from jax.experimental import mesh_utils

    return mesh_utils.create_device_mesh(sizes, devices)
