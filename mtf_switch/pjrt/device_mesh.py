"""The devices of a mesh, and values on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mtf_switch.programs.program import Value

# A value on the devices of this process, in the order of the mesh's cores.
OnDevices = list[Any]


@dataclasses.dataclass(frozen=True)
class DeviceMesh:
    """Devices as the cores of a mesh.

    Attributes:
      axes: The names of the mesh's axes.
      devices: JAX devices, an array with the mesh's shape. Core n is the n-th of them.
    """

    axes: tuple[str, ...]
    devices: np.ndarray

    @property
    def local(self) -> list[tuple[int, Any]]:
        """The (number of the core, device) pairs of this process."""
        process = jax.process_index()
        cores = enumerate(self.devices.flat)
        return [(core, device) for core, device in cores if device.process_index == process]

    def put(self, of_cores: Sequence[np.ndarray]) -> OnDevices:
        """Copies values to the devices of this process.

        Args:
          of_cores: The value of each core of the mesh.
        """
        return [
            device.client.buffer_from_pyval(np.asarray(of_cores[core]), device, force_copy=True)
            for core, device in self.local
        ]

    def put_everywhere(self, value: np.ndarray) -> OnDevices:
        """Copies one value to all devices of this process."""
        return self.put([value] * self.devices.size)

    def split(self, value: Value, whole: np.ndarray) -> OnDevices:
        """Copies its slice of a variable to each device of this process.

        Args:
          value: The slice of one core.
          whole: The whole variable. It is cast to the dtype of the slice.
        """
        slices = self._sharding(value).devices_indices_map(whole.shape)
        whole = whole.astype(read_dtype(value.dtype))
        return self.put([whole[slices[device]] for device in self.devices.flat])

    def join(self, value: Value, slices: OnDevices) -> np.ndarray:
        """Returns a whole variable. All processes must call this, because they communicate.

        Args:
          value: The slice of one core.
          slices: Those of the devices of this process.
        """
        sizes = dict(zip(self.axes, self.devices.shape))
        shape = tuple(size * sizes.get(axis, 1) for size, axis in zip(value.shape, value.axes))
        sharding = self._sharding(value)
        whole = jax.make_array_from_single_device_arrays(shape, sharding, slices)
        if not whole.is_fully_addressable:
            everywhere = NamedSharding(sharding.mesh, PartitionSpec())
            whole = jax.jit(lambda x: x, out_shardings=everywhere)(whole)
            whole = whole.addressable_data(0)
        # A copy, because the next step takes over the memory.
        return np.array(whole)

    def _sharding(self, value: Value) -> NamedSharding:
        mesh = jax.sharding.Mesh(self.devices, self.axes)
        return NamedSharding(mesh, PartitionSpec(*(axis or None for axis in value.axes)))


def read_dtype(name: str) -> np.dtype:
    """Returns the NumPy dtype with a name such as "bfloat16"."""
    return jax.numpy.dtype(name)
