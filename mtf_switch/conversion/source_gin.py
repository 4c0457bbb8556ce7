"""Reads the gin file beside a T5X or Mesh TensorFlow checkpoint."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mtf_switch import value_rules
from mtf_switch.config import gin_statements
from mtf_switch.conversion import architecture, public_checkpoints
from mtf_switch.conversion.architecture import Architecture
from mtf_switch.errors import UserError
from mtf_switch.layers import capacity
from mtf_switch.layers.capacity import ExpertCapacity

# Attribute of Architecture or ExpertCapacity -> its names in the gin files of Mesh TensorFlow
# and T5X. Modules in front of a name are ignored.
_GIN_NAMES = {
    "capacity_factor_train": (
        "ExpertCapacity.capacity_factor_train",
        "TRAIN_EXPERT_CAPACITY_FACTOR",
        "MoeLayer.train_capacity_factor",
    ),
    "capacity_factor_eval": (
        "ExpertCapacity.capacity_factor_eval",
        "EVAL_EXPERT_CAPACITY_FACTOR",
        "MoeLayer.eval_capacity_factor",
    ),
    "min_expert_capacity": (
        "ExpertCapacity.min_expert_capacity",
        "MoeLayer.min_expert_capacity",
    ),
    "group_size": ("ExpertCapacity.group_size",),
    "max_group_size": (
        "ExpertCapacity.max_group_size",
        "GROUP_SIZE",
        "MoeLayer.max_group_size",
    ),
    "input_jitter": ("Exploration.jitter", "JITTER_NOISE"),
    "dropout_rate": ("dropout_rate", "DROPOUT_RATE"),
    "activations": ("MlpBlock.activations", "T5Config.mlp_activations"),
    "experts_per_token": (
        "NUM_SELECTED_EXPERTS",
        "TokensChooseMaskedRouter.num_selected_experts",
        "TokensChooseScatterRouter.num_selected_experts",
    ),
}
# Whether a feed-forward layer is sparse -> the names of its activations in Mesh TensorFlow,
# whose default is ReLU.
_OF_LAYERS = {
    False: ("DenseReluDense.activation",),
    True: ("SwitchFFN.activation", "MoE1D.activation"),
}
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
    gin_file = find_gin_file(folders)
    if gin_file:
        return apply_gin_file(gin_file, inferred), []
    activations = " x ".join(inferred.activations)
    return inferred, [
        f"There is no config.gin beside {path}, so the activation {activations} is assumed."
    ]


def find_gin_file(folders: Sequence[str]) -> str | None:
    """Returns the first config.gin or operative_config.gin in these folders, or None."""
    for folder in folders:
        for name in ("config.gin", "operative_config.gin"):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                return path
    return None


def apply_gin_file(path: str, inferred: Architecture) -> Architecture:
    """Adds the values from a gin file to an inferred architecture.

    Args:
      path: A gin file of Mesh TensorFlow or T5X.
      inferred: The architecture that was inferred from the tensors.

    Raises:
      UserError: If the file is not a gin file, or contradicts the tensors.
    """
    values = _read_model_values(path, inferred)
    activations = values.pop("activations", inferred.activations)
    activations = (activations,) if isinstance(activations, str) else activations
    if isinstance(activations, list):
        activations = tuple(activations)
    values_read = {**values, "activations": activations}
    value_rules.check_all(path, {**architecture.RULES, **capacity.RULES}, values_read)
    if (len(activations) == 2) != inferred.gated:
        raise UserError(
            f"{path} says that feed-forward layers have the activations "
            f"{' x '.join(activations)}, but in the checkpoint each has "
            f"{'two input matrices' if inferred.gated else 'one input matrix'}."
        )
    capacity_values = {name: values.pop(name) for name in _CAPACITY_FIELDS & set(values)}
    return dataclasses.replace(
        inferred,
        activations=activations,
        capacity=dataclasses.replace(inferred.capacity, **capacity_values),
        **values,
    )


def _read_model_values(path: str, inferred: Architecture) -> dict[str, Any]:
    """Returns the values that a gin file binds, by the attributes of _GIN_NAMES."""
    statements = _read_statements(path)
    bindings = {name: _drop_reference(value) for name, value in statements.items()}
    values = {}
    for attribute, gin_names in _GIN_NAMES.items():
        value = _find(bindings, gin_names)
        if value is not None:
            values[attribute] = value
    values.update(_read_activations(path, bindings, inferred))
    if inferred.num_experts:
        values.update(_read_experts_per_token(statements))
    else:
        values.pop("experts_per_token", None)
    return values


def _find(bindings: Mapping[str, Any], gin_names: Sequence[str]) -> Any:
    """Returns the first value that is bound to one of these names, or None."""
    return next(
        (
            value
            for name, value in bindings.items()
            if value is not None
            and any(name == end or name.endswith("." + end) for end in gin_names)
        ),
        None,
    )


def _read_activations(
    path: str, bindings: Mapping[str, Any], inferred: Architecture
) -> dict[str, Any]:
    """Reads the activations of Mesh TensorFlow's feed-forward layers; {} if none is bound.

    Raises:
      UserError: If sparse and dense layers have different ones.
    """
    bound = {is_sparse: _find(bindings, names) for is_sparse, names in _OF_LAYERS.items()}
    if all(value is None for value in bound.values()):
        return {}
    found = {
        is_sparse: "relu" if bound[is_sparse] is None else bound[is_sparse]
        for is_sparse in sorted({*inferred.encoder, *inferred.decoder})
    }
    misfits = [value for value in found.values() if (len(_list(value)) == 2) != inferred.gated]
    if misfits:  # the caller refuses them
        return {"activations": misfits[0]}
    first, *others = found.values()
    if any(_list(other) != _list(first) for other in others):
        raise UserError(
            f"{path} says that dense feed-forward layers have the activation {found[False]!r}, "
            f"and experts {found[True]!r}, but no format states two: such a model cannot be "
            "converted or pruned."
        )
    return {"activations": first}


def _list(activations: Any) -> list[Any]:
    return list(activations) if isinstance(activations, (list, tuple)) else [activations]


def _read_experts_per_token(statements: Mapping[str, Any]) -> dict[str, Any]:
    """Reads how many experts a router of Mesh TensorFlow chooses; {} if that is one."""
    router = _find(statements, ["SwitchFFN.router"])
    gating = _find(statements, ["MoE1D.moe_gating"])
    if isinstance(router, gin_statements.Reference) and router.base_name == "TopKRouter":
        return {"experts_per_token": _find(statements, ["TopKRouter.k"]) or 2}
    if gating == _TOP_2:
        return {"experts_per_token": 2}
    if gating == _TOP_N:
        count = _find(statements, ["MoE1D.top_n_num_experts_per_token"])
        return {"experts_per_token": count or 3}
    return {}


def _read_statements(path: str) -> Mapping[str, Any]:
    """Returns the value of each macro and each `selector.parameter` in a gin file."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The gin file {path} cannot be read: {error}.") from error
    bindings = gin_statements.read_bindings(text, source=f"The gin file {path}")
    values = {".".join(filter(None, (b.name, b.parameter))): b.value for b in bindings}
    return {name: _resolve(value, values) for name, value in values.items()}


def _drop_reference(value: Any) -> Any:
    """Returns None for a reference to a configurable, and every other value as it is."""
    return None if isinstance(value, gin_statements.Reference) else value


def _resolve(value: Any, values: Mapping[str, Any]) -> Any:
    """Replaces a macro by its value."""
    for _ in range(10):  # macros may refer to other macros, even in a cycle
        if not isinstance(value, gin_statements.Macro):
            break
        value = values.get(value.name)
    return value
