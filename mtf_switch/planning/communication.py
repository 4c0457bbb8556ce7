"""Communication between cores: the closed forms of Section 5, and the bytes that cores send.

This module does not import TensorFlow. `pod_census` counts the collectives in the graph that a
pod would run, and the tests compare that count with these closed forms.

The letters are those of `dimensions`: G groups in the batch, S tokens per group, E experts, C
expert capacity, M d_model. In addition, there is n-way data parallelism and m-way model
parallelism.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.programs.program import BYTES_PER_ELEMENT

CollectiveKind = Literal["all_to_all", "all_reduce", "collective_permute"]
ALL_TO_ALL: CollectiveKind = "all_to_all"
ALL_REDUCE: CollectiveKind = "all_reduce"
PERMUTE: CollectiveKind = "collective_permute"

# Gradients of weights belong to the backward pass; the optimizer is the update.
Phase = Literal["forward", "backward", "update"]
FORWARD: Phase = "forward"
BACKWARD: Phase = "backward"
UPDATE: Phase = "update"


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation, and how often a training step runs it.

    Attributes:
      kind: The operation.
      axis: The mesh axis that it runs over, or several joined by "+", such as "data+model".
      cores_per_group: The number of cores that communicate with each other.
      dtype: The dtype that is sent.
      shape: The shape of one core's operand.
      phase: The part of the training step that the operand comes from.
      count: Runs per training step, over all microbatches.
    """

    kind: CollectiveKind
    axis: str
    cores_per_group: int
    dtype: str
    shape: tuple[int, ...]
    phase: Phase
    count: int

    @property
    def operand_bytes(self) -> int:
        """Bytes of one core's operands, over all `count` runs."""
        return math.prod(self.shape) * BYTES_PER_ELEMENT[self.dtype] * self.count

    @property
    def wire_bytes(self) -> float:
        """Bytes that one core sends, over all `count` runs; see `compute_wire_bytes`."""
        return compute_wire_bytes(self.kind, self.operand_bytes, self.cores_per_group)

    def as_json(self) -> dict[str, Any]:
        """Returns the collective as a JSON object, with sizes in bytes."""
        return {
            "kind": self.kind,
            "axis": self.axis,
            "group": self.cores_per_group,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "phase": self.phase,
            "count": self.count,
            "operand_bytes": self.operand_bytes,
            "wire_bytes": self.wire_bytes,
        }


def compute_wire_bytes(
    kind: CollectiveKind, operand_bytes: float, cores_per_group: int
) -> float:
    """Returns the bytes that each core sends for an operand of b bytes in a group of k cores.

    - All-to-all: each core keeps one of k parts and sends the others: b (k - 1) / k.
    - All-reduce, as a ring: a reduce-scatter and an all-gather, b (k - 1) / k each.
    - Permute: b.
    """
    if kind == PERMUTE:
        return operand_bytes
    others = (cores_per_group - 1) / cores_per_group
    return operand_bytes * others * (2 if kind == ALL_REDUCE else 1)


@dataclasses.dataclass(frozen=True)
class PredictedCollective:
    """A collective that Section 5 predicts for a layer.

    Attributes:
      kind: The operation.
      axis: The mesh axis that it runs over.
      elements: The number of elements in one core's operand.
      forward: Runs per forward pass.
      backward: Runs per backward pass.
    """

    kind: CollectiveKind
    axis: str
    elements: int
    forward: int
    backward: int


def predict_switch_layer(
    layout: MeshLayout, groups: int, experts: int, capacity: int, d_model: int
) -> list[PredictedCollective]:
    """Predicts the collectives of one Switch layer (Sections 5.4 and 5.5).

    If the experts are split, the forward pass has two all-to-alls, to the experts' cores and
    back, and the backward pass has two for the gradients. The operand of a core has E x C x M
    elements for each of its groups.

    If each expert's hidden units are split over m cores, the forward pass has an all-reduce of
    the partial sums of the expert outputs, [E / n, G, C, M], and the backward pass has one of
    the gradients of the expert inputs. If the experts are not split, a core processes only its
    own groups, and the operand is [E, G / n, C, M].

    Args:
      layout: A layout with rules for batch, experts or batch_unsplit, and expert_hidden.
      groups: G, the number of groups in the whole batch.
      experts: E, the number of experts.
      capacity: C, the expert capacity.
      d_model: M, the model dimension.
    """
    collectives = []
    if layout.ways("experts") > 1:
        elements = experts * groups // layout.ways("batch") * capacity * d_model
        collectives.append(
            PredictedCollective(ALL_TO_ALL, layout.axis("experts"), elements, 2, 2)
        )
    if layout.ways("expert_hidden") > 1:
        experts_per_core = experts // layout.ways("experts")
        groups_per_core = groups // layout.ways("batch_unsplit")
        elements = experts_per_core * groups_per_core * capacity * d_model
        collectives.append(
            PredictedCollective(ALL_REDUCE, layout.axis("expert_hidden"), elements, 1, 1)
        )
    return collectives


def predict_dense_layer(
    layout: MeshLayout, tokens: int, d_model: int, hidden_dim: str = "d_ff"
) -> list[PredictedCollective]:
    """Predicts the collectives of one dense layer (Sections 5.2 and 5.3).

    If the hidden dimension is split, there is one all-reduce of [B / n, M] in the forward pass,
    for the output, and one in the backward pass, for the gradient of the input. Attention with
    split heads has the same two: the gradients through queries, keys and values are added
    before they are reduced.

    Args:
      layout: A layout with rules for batch and `hidden_dim`.
      tokens: B, the number of tokens in the whole batch.
      d_model: M, the model dimension.
      hidden_dim: The dimension inside the layer: "d_ff", or "heads" for attention.
    """
    if layout.ways(hidden_dim) == 1:
        return []
    elements = tokens // layout.ways("batch") * d_model
    return [PredictedCollective(ALL_REDUCE, layout.axis(hidden_dim), elements, 1, 1)]


def predict_gradients(
    layout: MeshLayout, variables: Iterable[Mapping[str, int]]
) -> list[PredictedCollective]:
    """Predicts the all-reduces of data parallelism (Section 5.1): one per gradient and step.

    A variable that is itself split over the data axis, such as the experts, needs none, because
    the core that holds a part of it computes that part's gradient for all tokens.

    Args:
      layout: A layout with a rule for batch.
      variables: The dimensions of each trainable variable, by name.
    """
    data = layout.axis("batch")
    return [
        PredictedCollective(ALL_REDUCE, data, layout.slice_size(dims), 0, 1)
        for dims in variables
        if data and data not in {layout.axis(name) for name in dims}
    ]
