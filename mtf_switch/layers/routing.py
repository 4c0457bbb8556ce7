"""The result of a router: the expert, the slot and the gate of each token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import mesh_tensorflow as mtf


@dataclasses.dataclass(frozen=True)
class Assignment:
    """The expert and, if there is one, the slot of each token.

    Attributes:
      expert_index: [O, G, N] int32, the chosen expert.
      position_in_expert: [O, G, N] int32, how many tokens are before it in that expert.
      kept: [O, G, N] float32, 1 if the expert has a slot for the token, 0 if the token is
        dropped or is padding.
      gate: [O, G, N] float32, the weight of the expert's output.
    """

    expert_index: mtf.Tensor
    position_in_expert: mtf.Tensor
    kept: mtf.Tensor
    gate: mtf.Tensor


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of the experts that each token may visit: the first choice, the second, and so on.

    Attributes:
      expert_index: [O, G, S] int32, the expert.
      gate: [O, G, S] float32, the weight of the expert's output if the token visits it.
      kept: [O, G, S] float32, 1 if the token got a slot of this expert through this choice. 0
        for padding, for tokens for which the expert had no slot, and for tokens that did not
        ask for one.
    """

    expert_index: mtf.Tensor
    gate: mtf.Tensor
    kept: mtf.Tensor


@dataclasses.dataclass(frozen=True)
class Routing(Assignment):
    """The destination of each token, by index. Every dispatch algorithm starts from it.

    With K experts per token, N is K * S: all tokens in order with their first choices, then all
    tokens with their second choices, and so on. First choices are served first.

    Attributes:
      aux_loss: A float32 scalar, the sum of the router's losses, each times its coefficient.
      sums: [6 + 2 E] float32, see `router_metrics`.
      experts_per_token: K.
      choices: The choices from which the assignment was made, the first one first.
      nonpadding: [O, G, S] float32, 1 for tokens and 0 for padding; None if the maker of the
        routing does not know it.
    """

    aux_loss: mtf.Tensor
    sums: mtf.Tensor
    experts_per_token: int = 1
    choices: tuple[Choice, ...] = ()
    nonpadding: mtf.Tensor | None = None


# Sees the routing of a layer, by the layer's name in the metrics, and returns the routing with
# which the layer goes on.
Observe = Callable[[str, Routing], Routing]
