"""Settings of Mesh TensorFlow that change what a model computes, but are in no other format.

None of them adds a variable, so only the gin file shows them.
"""

from __future__ import annotations

from typing import Any

from mtf_switch.config.gin_statements import Binding, Reference
from mtf_switch.conversion.gin_values import GinValues
from mtf_switch.errors import UserError

# Name -> the values with which the model is the one of the other formats, and of model.gin.
_FIXED = {
    "sublayer_rms_norm.epsilon": (1e-6,),
    "LayerStack.norm_epsilon": (None, 1e-6),
    "VocabEmbedding.scale_variable_like_classifier_weights": (False,),
    "GatherEmbedding.scale_variable_like_classifier_weights": (False,),
    "Unitransformer.sinusoid_positional_embedding": (False,),
    "SelfAttention.fold_scaling_into_initializer": (True,),
    "EncDecAttention.fold_scaling_into_initializer": (True,),
    "SwitchRouter.router_dtype": ("float32",),
    "NoTokenLeftBehindRouter.router_dtype": ("float32",),
    "TopKRouter.router_dtype": ("float32",),
    "TopKRouter.policy_eval": ("all",),
}
# Name -> the sublayers besides dropout, which acts only in training.
_SUBLAYERS = {
    "LayerStack.sublayers_initial": [],
    "LayerStack.sublayers_per_layer": [
        *("sublayer_rms_norm", "sublayer_call_layer", "sublayer_residual"),
    ],
    "LayerStack.sublayers_final": ["sublayer_rms_norm"],
}
_ROUTERS = ("SwitchRouter", "TopKRouter", "NoTokenLeftBehindRouter")


def check(path: str) -> None:
    """Checks that a model remains the same without these settings.

    Args:
      path: The gin file of Mesh TensorFlow that describes it.

    Raises:
      UserError: For the first setting without which it computes something else.
    """
    for binding in GinValues.read(path).bindings:
        if not _is_stated(binding):
            raise UserError(
                f"{path} has {binding}, which changes what the model computes. Only a "
                "config.gin of Mesh TensorFlow states this setting, so the converted model "
                "would be another one. --to=mtf without --gin_file keeps the setting."
            )


def _is_stated(binding: Binding) -> bool:
    """Whether a binding is none of these settings, or has the value that the rest expects."""
    name = f"{binding.base_name}.{binding.parameter}"
    if name in _SUBLAYERS:
        return binding.value is None or _list_sublayers(binding.value) == _SUBLAYERS[name]
    if name == "SwitchFFN.router":
        return binding.value is None or _name_of(binding.value) in _ROUTERS
    return name not in _FIXED or binding.value in _FIXED[name]


def _list_sublayers(value: Any) -> list[str]:
    """Returns the names of sublayers, without dropout."""
    names = map(_name_of, value if isinstance(value, tuple) else [value])
    return [name for name in names if name != "sublayer_dropout"]


def _name_of(value: Any) -> str:
    """Returns the name of the configurable in a value, or the value as text."""
    return value.base_name if isinstance(value, Reference) else repr(value)
