"""What cores say to one another: Section 5's closed forms, and what a collective costs.

No TensorFlow in here. `pod_census` counts the collectives of the graph that a pod would run,
and the tests hold that count against these formulas.

Letters as in `dimensions`: G groups of the batch, S tokens of each, E experts of C slots for a
group, M d_model; n = ways of data, m = ways of model parallelism.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from mtf_switch.config.mesh_layout import MeshLayout

ALL_TO_ALL, ALL_REDUCE, PERMUTE = "all_to_all", "all_reduce", "collective_permute"
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "int32": 4, "bool": 1}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of exchange between cores, and how often a training step does it.

    Attributes:
      kind: ALL_TO_ALL, ALL_REDUCE or PERMUTE.
      axis: of the mesh; "data+model" is over both.
      group: cores that exchange with one another.
      dtype: what crosses the wires.
      shape: of one core's operand.
      phase: "forward", "backward" (gradients of weights included) or "update" (optimizer).
      count: in a step, all microbatches together.
    """

    kind: str
    axis: str
    group: int
    dtype: str
    shape: tuple[int, ...]
    phase: str
    count: int

    @property
    def operand_bytes(self) -> int:
        """Bytes of a core's operands, of all `count` together."""
        return math.prod(self.shape) * BYTES[self.dtype] * self.count

    @property
    def wire_bytes(self) -> float:
        """Bytes that a core sends, of all `count` together; see `wire_bytes`."""
        return wire_bytes(self.kind, self.operand_bytes, self.group)


def wire_bytes(kind: str, operand_bytes: float, group: int) -> float:
    """Bytes that each core of a group of k sends for an operand of b bytes.

    All-to-all: it keeps one of k parts and sends the others, b (k - 1) / k. All-reduce, as a
    ring: a reduce-scatter and an all-gather of b (k - 1) / k each. Permute: b.
    """
    if kind == PERMUTE:
        return operand_bytes
    others = (group - 1) / group
    return operand_bytes * others * (2 if kind == ALL_REDUCE else 1)


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What Section 5 says of one exchange: how many numbers of each core, how often.

    Attributes:
      kind: ALL_TO_ALL or ALL_REDUCE.
      axis: of the mesh.
      elements: of one core's operand.
      forward: times in a forward pass.
      backward: times in a backward pass.
    """

    kind: str
    axis: str
    elements: int
    forward: int
    backward: int


def switch_layer(
    layout: MeshLayout, groups: int, experts: int, capacity: int, d_model: int
) -> list[Exchange]:
    """The exchanges of one Switch layer (Sections 5.4 and 5.5).

    Two all-to-alls of E x C x M numbers a core and group in each direction: tokens to the
    experts' cores and back; backward their gradients the same way. Where each expert's hidden
    units are split over m cores, their partial sums are one all-reduce of what a core's
    experts give, [E / n, G, C, M], and backward one of the gradients of what they were given.
    Where experts are not split, a core has the slots of its own groups: [E, G / n, C, M].

    Args:
      layout: with rules for batch, experts or batch_unsplit, and expert_hidden.
      groups: G, of the whole batch.
      experts: E.
      capacity: C.
      d_model: M.
    """
    exchanges = []
    if layout.ways("experts") > 1:
        per_core = experts * groups // layout.ways("batch") * capacity * d_model
        exchanges.append(Exchange(ALL_TO_ALL, layout.axis("experts"), per_core, 2, 2))
    if layout.ways("expert_hidden") > 1:
        slots = experts // layout.ways("experts") * (groups // layout.ways("batch_unsplit"))
        slots *= capacity * d_model
        exchanges.append(Exchange(ALL_REDUCE, layout.axis("expert_hidden"), slots, 1, 1))
    return exchanges


def dense_layer(
    layout: MeshLayout, tokens: int, d_model: int, split: str = "d_ff"
) -> list[Exchange]:
    """The exchanges of one dense layer (Sections 5.2 and 5.3).

    One all-reduce of [B / n, M] forward, for the layer's output, and one backward, for the
    gradient of its input. That of attention is the same, where heads are split: the gradients
    by way of queries, keys and values are added up before they are reduced.

    Args:
      layout: with rules for batch and `split`.
      tokens: B, of the whole batch.
      d_model: M.
      split: the dimension inside the layer: "d_ff", or "heads" for attention.
    """
    if layout.ways(split) == 1:
        return []
    per_core = tokens // layout.ways("batch") * d_model
    return [Exchange(ALL_REDUCE, layout.axis(split), per_core, 1, 1)]


def gradients(layout: MeshLayout, weights: Iterable[Mapping[str, int]]) -> list[Exchange]:
    """The exchanges of data parallelism (Section 5.1): each gradient, once a step.

    A weight that is itself split over the data axis, as experts are, has the gradient of all
    tokens that visited it on its own core.

    Args:
      layout: with a rule for batch.
      weights: the dimensions of each trainable variable.
    """
    data = layout.axis("batch")
    return [
        Exchange(ALL_REDUCE, data, layout.slice_size(dims), 0, 1)
        for dims in weights
        if data and data not in {layout.axis(name) for name in dims}
    ]
