"""Reads the gin file beside a T5X or Mesh TensorFlow checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mtf_switch import value_rules
from mtf_switch.config.gin_statements import Reference
from mtf_switch.conversion import architecture, gin_values, public_checkpoints
from mtf_switch.conversion.architecture import STACKS, Architecture
from mtf_switch.conversion.gin_values import GinValues
from mtf_switch.errors import UserError
from mtf_switch.layers import capacity
from mtf_switch.layers.capacity import ExpertCapacity

# Attribute of Architecture or ExpertCapacity -> its names in the gin files of Mesh TensorFlow
# and T5X, without modules. A parameter comes before the macro that it may be bound to.
_GIN_NAMES = {
    "capacity_factor_train": (
        "ExpertCapacity.capacity_factor_train",
        "MoeLayer.train_capacity_factor",
        "TRAIN_EXPERT_CAPACITY_FACTOR",
    ),
    "capacity_factor_eval": (
        "ExpertCapacity.capacity_factor_eval",
        "MoeLayer.eval_capacity_factor",
        "EVAL_EXPERT_CAPACITY_FACTOR",
    ),
    "min_expert_capacity": (
        "ExpertCapacity.min_expert_capacity",
        "MoeLayer.min_expert_capacity",
    ),
    "group_size": ("ExpertCapacity.group_size",),
    "max_group_size": (
        "ExpertCapacity.max_group_size",
        "MoeLayer.max_group_size",
        "GROUP_SIZE",
    ),
    "input_jitter": ("Exploration.jitter", "JITTER_NOISE"),
    "activations": ("MlpBlock.activations", "T5Config.mlp_activations"),
}
# These two macros are the rate of all layers, of which one may have another.
_DROPOUT_RATE = ("dropout_rate", "DROPOUT_RATE", "DenseReluDense.dropout_rate")
_T5X_EXPERTS_PER_TOKEN = (
    "TokensChooseMaskedRouter.num_selected_experts",
    "TokensChooseScatterRouter.num_selected_experts",
    "NUM_SELECTED_EXPERTS",
)
_DENSE_ACTIVATION = "DenseReluDense.activation"
# Mesh TensorFlow's activation of a layer that has none bound.
_DEFAULT_ACTIVATION = "relu"
# gin/defaults.gin binds the activation of experts to this function.
_OF_DENSE_LAYERS = "activation_of_dense_layers"
# What binds the router of a sparse layer: this project's, and Mesh TensorFlow's own MoE.
_ROUTERS = ("SwitchFFN.router", "MoE1D.moe_gating")
# The routers of Mesh TensorFlow's own MoE by which a token visits several experts.
_TOP_2, _TOP_N = "top_2", "top_n"
_CAPACITY_FIELDS = {field.name for field in dataclasses.fields(ExpertCapacity)}


def reconcile(
    path: str, folders: Sequence[str], inferred: Architecture
) -> tuple[Architecture, list[str]]:
    """Completes an inferred architecture with the gin file beside its checkpoint.

    Args:
      path: Path of the checkpoint, for error messages.
      folders: Folders that may hold the gin file.
      inferred: The architecture that was inferred from the tensors.

    Returns:
      The architecture, and notes for the user.

    Raises:
      UserError: If gin file and tensors contradict each other, or if the checkpoint is a copy
        of a public one that has lost its gates.
    """
    public_checkpoints.check_gates(path, inferred)
    public = public_checkpoints.find_public(inferred)
    if public:
        inferred = dataclasses.replace(inferred, capacity=public.capacity)
    gin_file = gin_values.find_gin_file(folders)
    if gin_file:
        return apply_gin_file(gin_file, inferred), []
    activations = " x ".join(inferred.activations)
    return inferred, [
        f"There is no config.gin beside {path}, so the activation {activations} is assumed."
    ]


def apply_gin_file(path: str, inferred: Architecture) -> Architecture:
    """Adds the values from a gin file to an inferred architecture.

    Args:
      path: A gin file of Mesh TensorFlow or T5X.
      inferred: The architecture that was inferred from the tensors.

    Raises:
      UserError: If the file is not a gin file, or contradicts the tensors.
    """
    values = _read_model_values(GinValues.read(path), inferred)
    value_rules.check_all(path, {**architecture.RULES, **capacity.RULES}, values)
    activations = values["activations"]
    if (len(activations) == 2) != inferred.gated:
        raise UserError(
            f"{path} says that feed-forward layers have the activations "
            f"{' x '.join(activations)}, but in the checkpoint each has "
            f"{'two input matrices' if inferred.gated else 'one input matrix'}."
        )
    capacity_values = {name: values.pop(name) for name in _CAPACITY_FIELDS}
    return dataclasses.replace(
        inferred, capacity=dataclasses.replace(inferred.capacity, **capacity_values), **values
    )


def _read_model_values(values: GinValues, inferred: Architecture) -> dict[str, Any]:
    """Returns the values that a gin file gives to attributes, and those inferred for the rest.

    Raises:
      UserError: If a value differs between layers.
    """
    sparse_stacks = [stack for stack in STACKS if any(getattr(inferred, stack))]
    defaults = {**vars(inferred), **vars(inferred.capacity)}
    found = {
        attribute: values.find_same(names, sparse_stacks or STACKS, defaults[attribute])
        for attribute, names in _GIN_NAMES.items()
    }
    found["dropout_rate"] = values.find_same(_DROPOUT_RATE, STACKS, inferred.dropout_rate)
    activations = _read_activations(values, inferred) or found["activations"]
    found["activations"] = (activations,) if isinstance(activations, str) else activations
    if sparse_stacks:
        places = {f"the {stack}": stack for stack in sparse_stacks}
        for binding in values.find_elsewhere(_ROUTERS):
            places[f"the scope {binding.scope!r}"] = binding.scope
        for attribute, (count, subject) in _COUNTS.items():
            counts = {place: count(values, scope) for place, scope in places.items()}
            found[attribute] = gin_values.check_same(values.path, subject, counts)
    return found


def _read_activations(values: GinValues, inferred: Architecture) -> Any:
    """Reads the activations of Mesh TensorFlow's feed-forward layers; None if none is bound.

    Raises:
      UserError: If two layers have different ones.
    """
    names = {
        False: _DENSE_ACTIVATION,
        True: f"{'MoE1D' if values.mentions('MoE1D') else 'SwitchFFN'}.activation",
    }
    bound = [*names.values()]
    if not values.find_elsewhere(bound) and not any(values.find(bound, s) for s in STACKS):
        return None
    kinds = {False: "the dense layers", True: "the experts"}
    found = {
        f"{kinds[is_sparse]} of the {stack}": _find_activation(values, names[is_sparse], stack)
        for stack in STACKS
        for is_sparse in sorted(set(getattr(inferred, stack)))
    }
    used = [names[is_sparse] for is_sparse in {*inferred.encoder, *inferred.decoder}]
    for binding in values.find_elsewhere(used):
        name = f"{binding.base_name}.{binding.parameter}"
        place = f"the scope {binding.scope!r}"
        found[place] = _find_activation(values, name, binding.scope)
    misfits = [a for a in found.values() if (len(_as_tuple(a)) == 2) != inferred.gated]
    if misfits:  # the caller refuses them
        return misfits[0]
    return gin_values.check_same(values.path, "the activation of feed-forward layers", found)


def _find_activation(values: GinValues, name: str, scope: str) -> Any:
    """Returns the activation of a layer that is made in a scope."""
    binding = values.find([name], scope)
    activation = binding.value if binding else _DEFAULT_ACTIVATION
    if name != _DENSE_ACTIVATION and _is_call_of(activation, _OF_DENSE_LAYERS):
        return _find_activation(values, _DENSE_ACTIVATION, _scope_of(activation, scope))
    return activation


def _as_tuple(activations: Any) -> tuple[Any, ...]:
    return activations if isinstance(activations, tuple) else (activations,)


def _count_experts_per_token(values: GinValues, scope: str) -> Any:
    """Returns how many experts the routers that are made in a scope choose for each token."""
    of_switch, of_moe = _ROUTERS
    router = _find_value(values, of_switch, scope, None)
    if _is_call_of(router, "TopKRouter"):
        return _find_value(values, "TopKRouter.k", _scope_of(router, scope), 2)
    gating = _find_value(values, of_moe, scope, None)
    if gating == _TOP_2:
        return 2
    if gating == _TOP_N:
        return _find_value(values, "MoE1D.top_n_num_experts_per_token", scope, 3)
    of_t5x = values.find(_T5X_EXPERTS_PER_TOKEN, scope)
    return of_t5x.value if of_t5x else 1


def _count_stages(values: GinValues, scope: str) -> Any:
    """Returns how many experts a token tries, by the routers that are made in a scope."""
    router = _find_value(values, _ROUTERS[0], scope, None)
    if not _is_call_of(router, "NoTokenLeftBehindRouter"):
        return 1
    return _find_value(values, "NoTokenLeftBehindRouter.stages", _scope_of(router, scope), 4)


# Attribute of Architecture -> what reads it for one scope, and its description.
_COUNTS = {
    "experts_per_token": (
        _count_experts_per_token,
        "the number of experts that a token visits",
    ),
    "routing_stages": (_count_stages, "the number of experts that a token tries"),
}


def _is_call_of(value: Any, name: str) -> bool:
    """Whether a value is the result of a configurable with this name, in any scope."""
    return isinstance(value, Reference) and value.is_call and value.base_name == name


def _scope_of(reference: Reference, outer: str) -> str:
    """Returns the scope in which gin calls a reference that is bound in an outer scope."""
    return "/".join(reference.scopes) or outer


def _find_value(values: GinValues, name: str, scope: str, default: Any) -> Any:
    binding = values.find([name], scope)
    return binding.value if binding else default
