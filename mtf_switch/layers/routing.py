"""The result of a router: the expert, the slot and the gate of each token."""

from __future__ import annotations

import dataclasses

import mesh_tensorflow as mtf


@dataclasses.dataclass(frozen=True)
class Assignment:
    """The expert and the slot of each token, if it has one.

    Attributes:
      expert_index: [O, G, N] int32, the expert that was chosen.
      position_in_expert: [O, G, N] int32, the number of tokens before it in that expert.
      kept: [O, G, N] float32, 1 if the expert has a slot for the token, 0 if the token is
        dropped or is padding.
      gate: [O, G, N] float32, the weight of the expert's output.
    """

    expert_index: mtf.Tensor
    position_in_expert: mtf.Tensor
    kept: mtf.Tensor
    gate: mtf.Tensor


@dataclasses.dataclass(frozen=True)
class Routing(Assignment):
    """Where each token goes, by index. Every way to dispatch tokens starts from it.

    With K experts per token, N is K * S: first all tokens with their first choices, in order,
    then all tokens with their second choices, and so on. First choices are served first.

    Attributes:
      aux_loss: float32 scalar, the sum of the router's losses, each times its coefficient.
      sums: [6 + 2 E] float32, see `router_metrics`.
      experts_per_token: K.
    """

    aux_loss: mtf.Tensor
    sums: mtf.Tensor
    experts_per_token: int = 1
