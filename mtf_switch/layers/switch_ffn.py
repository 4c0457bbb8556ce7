"""The Switch layer in place of a feed-forward layer (Section 2 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence

import gin

from mtf_switch.layers import switch_layer_rules
from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.dispatch_method import Method
from mtf_switch.layers.router import Router
from mtf_switch.layers.switch_layer import SwitchLayer

switch_layer_rules.declare("SwitchFFN", ExpertCapacity, Router)


@gin.configurable
class SwitchFFN(SwitchLayer):
    """A feed-forward layer of E experts, of which each token visits one (Section 2).

    It replaces `DenseReluDense` in `make_layer_stack.layers`. `SwitchLayer` shows the path of
    the tokens.
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
        dispatch: Method = "auto",
    ):
        """Records the hyperparameters.

        Args:
          num_experts: E.
          hidden_size: F, the hidden units of each expert.
          activation: The name of an activation of Mesh TF, or a list of names whose outputs
            are multiplied: ["gelu", "linear"] is T5 1.1's gated GELU.
          expert_dropout_rate: Dropout on the experts' hidden units, in training. Fine-tuning
            uses 0.4 here and 0.1 elsewhere (Table 4).
          capacity: Groups and expert capacity; by default ExpertCapacity() from gin.
          router: By default SwitchRouter() from gin. Gin can bind another router, such as
            @TopKRouter().
          dispatch: How tokens reach their experts. All values give equal results. "auto"
            chooses the fastest: "einsum", the paper's one-hot products, on a TPU; "sort",
            tokens sorted by expert, on one core; "gather", slots filled by index, on several
            cores. See `dispatch_method`.

        Raises:
          UserError: If a value is not valid.
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
