"""The rules for the hyperparameters of a Switch layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtf_switch import value_rules
from mtf_switch.errors import UserError
from mtf_switch.layers import dispatch_method
from mtf_switch.layers.experts import find_activation

_RULES = {
    "num_experts": value_rules.whole(1),
    "hidden_size": value_rules.whole(1),
    "expert_dropout_rate": value_rules.rate(),
}


def declare(configurable: str, capacity: type, router: type) -> None:
    """Declares the rules for a configurable that has the parameters of a SwitchLayer.

    Args:
      configurable: Its name in gin.
      capacity: The class of its capacity.
      router: The class of its routers.
    """
    value_rules.declare(
        configurable,
        **_RULES,
        capacity=value_rules.Rule(
            "a capacity: @ExpertCapacity()", lambda value: isinstance(value, capacity)
        ),
        router=value_rules.Rule(
            "a router: @SwitchRouter(), @TopKRouter() or @NoTokenLeftBehindRouter()",
            lambda value: isinstance(value, router),
        ),
    )


def check(
    owner: str, numbers: Mapping[str, Any], activations: Sequence[str], dispatch: str
) -> None:
    """Checks hyperparameters.

    Args:
      owner: The name of the layer in gin.
      numbers: Hyperparameters that are numbers, by name.
      activations: Names of the activations.
      dispatch: A value of `dispatch`.

    Raises:
      UserError: If a value is not valid.
    """
    value_rules.check_all(owner, _RULES, numbers)
    for name in activations:
        if find_activation(name) is None:
            raise UserError(
                f"{owner}.activation names {name!r}, which is not a function of Mesh "
                'TensorFlow. The paper uses "relu" and ["gelu", "linear"] (gated GELU).'
            )
    if dispatch not in dispatch_method.METHODS:
        raise UserError(
            f"{owner}.dispatch is {dispatch!r}, but it must be one of "
            f"{', '.join(map(repr, dispatch_method.METHODS))}."
        )
