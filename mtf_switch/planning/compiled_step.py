"""A step that the TPU's own compiler compiled, and whether it fits."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.errors import TooLargeError
from mtf_switch.planning import core_memory
from mtf_switch.planning.core_memory import StepBatch, VariableSize, format_bytes
from mtf_switch.planning.hardware import Hardware
from mtf_switch.planning.modes import Mode
from mtf_switch.planning.plan import Plan
from mtf_switch.programs import operation_names
from mtf_switch.programs.compilation import Compilation, Refusal
from mtf_switch.programs.program import Program

# A refusal names this many layers.
_MAX_LAYERS = 3


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled step, and the plan for it.

    Attributes:
      mode: The kind of step.
      layout: The mesh and its layout rules.
      plan: The plan of a training step; None for another mode.
      program: The program that was compiled.
      compilation: The outcome of the compiler.
      verdict: A sentence that says whether the step fits and, if it does not, what would.
      seconds_to_lower: Wall time of building and lowering the graph.
    """

    mode: Mode
    layout: MeshLayout
    plan: Plan | None
    program: Program
    compilation: Compilation
    verdict: str
    seconds_to_lower: float

    @property
    def fits(self) -> bool:
        """Whether a core has the memory that the step needs, by the compiler."""
        sizes = self.compilation.bytes
        return sizes is not None and sizes.total <= self.compilation.usable_bytes

    def check_fits(self) -> None:
        """Checks that the step fits.

        Raises:
          TooLargeError: If it does not.
        """
        if not self.fits:
            raise TooLargeError(self.verdict)

    def as_json(self) -> dict[str, Any]:
        """Returns the step as one JSON object, with sizes in bytes and times in seconds."""
        return {
            "mode": self.mode,
            "mesh_shape": self.layout.mesh_shape,
            "layout_rules": self.layout.layout_rules,
            "cores": self.layout.size,
            "fits": self.fits,
            "verdict": self.verdict,
            "compiler": self.compilation.as_json(),
            "seconds_to_lower": self.seconds_to_lower,
            "plan": self.plan.as_json() if self.plan else None,
        }


def judge(
    outcome: Compilation,
    variables: Sequence[VariableSize],
    layout: MeshLayout,
    batch: StepBatch,
    hardware: Hardware,
) -> str:
    """Says whether a compiled step fits and, if it does not, what takes the memory.

    Args:
      outcome: The outcome of the compiler.
      variables: All variables of the model and of the optimizer.
      layout: The mesh and its layout rules.
      batch: The batch of the step.
      hardware: The pod.
    """
    usable = format_bytes(outcome.usable_bytes)
    if outcome.bytes:
        needed, largest = outcome.bytes.total, ""
        needs = f"it needs {format_bytes(needed)} per core"
        if needed <= outcome.usable_bytes:
            return f"It fits: {needs}, and a program can use {usable} of a {outcome.core} core."
        refused = f"It compiles, but it does not fit: {needs}"
    else:
        needed, largest = outcome.refusal.needed_bytes, _describe_largest(outcome.refusal)
        if needed is None:
            return (
                "It does not fit: the TPU's compiler refuses it, because it needs more than "
                f"the {usable} that a program can use of a {outcome.core} core. {largest}"
            ).rstrip()
        refused = (
            "It does not fit: the TPU's compiler refuses it, because it needs at least "
            f"{format_bytes(needed)} per core"
        )
    memory = core_memory.measure_memory(variables, layout, {})
    memory[core_memory.ACTIVATIONS] = max(0, needed - sum(memory.values()))
    fixes = core_memory.suggest_fixes(variables, memory, layout, batch, hardware)
    return (
        f"{refused}, {format_bytes(needed - outcome.usable_bytes)} more than the {usable} that "
        f"a program can use of a {outcome.core} core. {largest}{fixes}"
    )


def _describe_largest(refusal: Refusal) -> str:
    """Names the layers that own the largest allocations."""
    sizes: collections.Counter[str] = collections.Counter()
    for allocation in refusal.largest:
        name = operation_names.find_layer(allocation.operation) or allocation.operation
        sizes[name or allocation.shape] += allocation.bytes
    if not sizes:
        return ""
    named = [f"{format_bytes(size)} in {name}" for name, size in sizes.most_common(_MAX_LAYERS)]
    return f"The largest allocations that it names: {', '.join(named)}. "
