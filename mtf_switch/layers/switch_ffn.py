"""The Switch layer: Figure 16 of the paper in the place of a feed-forward layer."""

from __future__ import annotations

from collections.abc import Sequence

import gin

from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.dispatch import AUTO
from mtf_switch.layers.router import Router
from mtf_switch.layers.switch_layer import SwitchLayer


@gin.configurable
class SwitchFFN(SwitchLayer):
    """A feed-forward layer of E experts, of which each token visits one (Section 2).

    Stands in `make_layer_stack.layers` wherever `DenseReluDense` does; `SwitchLayer` has the
    way of the tokens.
    """

    gin_name = "SwitchFFN"

    def __init__(
        self,
        num_experts: int = 8,
        hidden_size: int = 2048,
        activation: str | Sequence[str] = "relu",
        expert_dropout_rate: float = 0.0,
        capacity: ExpertCapacity | None = None,
        router: Router | None = None,
        dispatch: str = AUTO,
    ):
        """Records the hyperparameters.

        Args:
          num_experts: E.
          hidden_size: F, of each expert.
          activation: an activation of Mesh TF by name, or a list of them whose outputs are
            multiplied: ["gelu", "linear"] is T5 1.1's gated GELU.
          expert_dropout_rate: dropout on the experts' hidden units, in training. Fine-tuning
            uses 0.4 here beside 0.1 elsewhere (Table 4).
          capacity: groups and expert capacity; by default ExpertCapacity() from gin.
          router: by default SwitchRouter() from gin; in gin @TopKRouter(), say.
          dispatch: how tokens reach their experts, with equal results: "einsum", the paper's
            one-hot products; "gather", by index; "auto", einsum on a TPU and gather elsewhere.

        Raises:
          UserError: for a value that no layer can be built with.
        """
        super().__init__(
            num_experts,
            hidden_size,
            activation,
            expert_dropout_rate,
            capacity,
            router,
            dispatch,
        )
