"""The tokens of one layer at one checkpoint, as the measures read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from mtf_switch.analysis import token_kinds
from mtf_switch.analysis.routing_trace import RoutingTrace, segment_of

_ROUTING = ("expert", "gate", "dropped")


@dataclasses.dataclass(frozen=True)
class LayerTokens:
    """The tokens that one layer routed, in the order of the examples: arrays [tokens].

    Attributes:
      num_experts: E.
      expert: The expert that the token chose first, before capacity.
      gate: The weight of that expert's output.
      dropped: Whether no expert had room for it.
      token: The id that the stack reads.
      target: The id to predict next; 0 in an encoder.
      kind: The kind of `token`, an index into `token_kinds.KINDS`.
      domain: An index into the domains of the trace.
      example: The number of the example.
      position: The place in the example, from 0.
      place_in_group: The place in the group, from 0, padding included.
      before: The expert in the Switch layer before; None for the first one of a stack.
      last: The expert at the last checkpoint; None for that checkpoint itself.
    """

    num_experts: int
    expert: np.ndarray
    gate: np.ndarray
    dropped: np.ndarray
    token: np.ndarray
    target: np.ndarray
    kind: np.ndarray
    domain: np.ndarray
    example: np.ndarray
    position: np.ndarray
    place_in_group: np.ndarray
    before: np.ndarray | None = None
    last: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.expert)

    def select(self, mask: np.ndarray) -> LayerTokens:
        """Returns the tokens that a mask [tokens] bool selects."""
        arrays = {name: values[mask] for name, values in self._arrays()}
        return dataclasses.replace(self, **arrays)

    def reroute(self, order: np.ndarray) -> LayerTokens:
        """Gives each token the expert, gate and drop of another one.

        Args:
          order: [tokens], a permutation: token i gets the routing of token order[i].
        """
        return dataclasses.replace(
            self, **{name: getattr(self, name)[order] for name in _ROUTING}
        )

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                yield field.name, value


def read(trace: RoutingTrace, step: int, layer: str) -> LayerTokens:
    """Reads the tokens of one layer from a trace.

    Args:
      trace: The trace.
      step: Step of the checkpoint.
      layer: Name of the layer.

    Raises:
      UserError: If the trace cannot be read.
    """
    info = trace.info
    segment = segment_of(layer)
    names = ("token", "target", "domain", "example", "position", "row")
    columns = {name: trace.column(step, segment, name) for name in names}
    # Groups consist of consecutive positions of the batch.
    place = columns.pop("row").astype(np.int64) * info.lengths[segment] + columns["position"]
    kept = trace.column(step, segment, f"kept/{layer}")
    layers, last = info.layers(segment), info.steps[-1]
    index = layers.index(layer)
    return LayerTokens(
        num_experts=info.experts[layer],
        expert=trace.first_choice(step, layer),
        gate=trace.column(step, segment, f"gate/{layer}")[:, 0],
        dropped=~kept.any(axis=1),
        kind=token_kinds.classify_all(info.pieces)[columns["token"]],
        place_in_group=place % info.group_sizes[layer],
        before=trace.first_choice(step, layers[index - 1]) if index else None,
        last=trace.first_choice(last, layer) if step != last else None,
        **columns,
    )
