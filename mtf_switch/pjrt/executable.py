"""A program that PJRT has compiled for the devices of a mesh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax._src.lib import xla_client

from mtf_switch.errors import TooLargeError, UserError
from mtf_switch.pjrt import device_mesh
from mtf_switch.pjrt.device_mesh import DeviceMesh, OnDevices
from mtf_switch.programs import compilation, compile_options, operation_names
from mtf_switch.programs.program import CORE, STEP, Program, Value


class Executable:
    """A compiled program.

    Attributes:
      program: The program.
      mesh: The devices that run it.
    """

    def __init__(self, program: Program, mesh: DeviceMesh):
        """Compiles a program.

        Raises:
          TooLargeError: If the compiler refuses it for its memory.
          UserError: If the compiler refuses it for another reason.
        """
        self.program, self.mesh = program, mesh
        self._cores = mesh.put([np.int32(core) for core in range(program.cores)])
        client = mesh.devices.flat[0].client
        options = compile_options.make_options(list(mesh.devices.flat))
        try:
            self._executable = client.compile(program.stablehlo, options)
        except xla_client.XlaRuntimeError as error:
            raise _explain(error) from error

    @property
    def hlo(self) -> str:
        """The text of the optimised program."""
        return self._executable.hlo_modules()[0].to_string()

    def run(
        self,
        variables: Mapping[str, OnDevices],
        batch: Mapping[str, np.ndarray],
        step: int = 0,
    ) -> tuple[dict[str, OnDevices], dict[str, Any]]:
        """Starts the program, and does not wait until it ends.

        Args:
          variables: The slices of each variable. The program takes over the memory of those
            that it changes.
          batch: The features of the whole batch. All processes have the same.
          step: The global step.

        Returns:
          (new slices of the variables that the program changes, its results). A result is a JAX
          array on one device; reading it waits for the program.
        """
        arguments = [
            self._place(value, variables, batch, step) for value in self.program.inputs
        ]
        outputs = self._executable.execute_sharded(arguments)
        named = zip(self.program.outputs, outputs.disassemble_into_single_device_arrays())
        changed: dict[str, OnDevices] = {}
        results: dict[str, Any] = {}
        for value, slices in named:
            if value.name in variables:
                changed[value.name] = slices
            else:
                results[value.name] = slices[0]
        return changed, results

    def _place(
        self,
        value: Value,
        variables: Mapping[str, OnDevices],
        batch: Mapping[str, np.ndarray],
        step: int,
    ) -> OnDevices:
        if value.name in variables:
            return variables[value.name]
        if value.name == CORE:
            return self._cores
        given = np.int64(step) if value.name == STEP else batch[value.name]
        return self.mesh.put_everywhere(np.asarray(given, device_mesh.read_dtype(value.dtype)))


def _explain(error: Exception) -> UserError:
    """Explains in one sentence why the compiler refuses a program."""
    message = " ".join(str(error).split())
    if compilation.read_refusal(message):
        return TooLargeError(
            "The program does not fit into the memory of a device: use more devices, a smaller "
            "batch or more microbatches "
            "(utils.serialize_num_microbatches.tokens_per_microbatch_per_replica). The "
            f"compiler says: {message[:300]}"
        )
    operation = operation_names.find_operation(message)
    place = f" the operation {operation}" if operation else " the program"
    return UserError(f"The compiler refuses{place}: {message[:300]}")
