"""The gin file of an architecture, and what a source's gin file tells of one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtf_switch.config import gin_statements
from mtf_switch.conversion import public_checkpoints
from mtf_switch.conversion.architecture import STACKS, Architecture
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity

_DENSE, _SPARSE = "@transformer_layers.DenseReluDense", "@SwitchFFN"
_ATTENTION = {
    "encoder": ["@transformer_layers.SelfAttention"],
    "decoder": ["@transformer_layers.SelfAttention", "@transformer_layers.EncDecAttention"],
}
# Names that Mesh TensorFlow's and T5X's gin files give to the same values, by their last parts.
_NAMES = {
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
    "activations": (
        "DenseReluDense.activation",
        "SwitchFFN.activation",
        "MlpBlock.activations",
        "T5Config.mlp_activations",
    ),
}


def period(sparse: Sequence[bool]) -> int:
    """The fewest blocks of T5 whose pattern of sparse layers, repeated, gives the stack."""
    return next(
        p
        for p in range(1, len(sparse) + 1)
        if len(sparse) % p == 0 and all(s == sparse[i % p] for i, s in enumerate(sparse))
    )


def of_architecture(architecture: Architecture, comment: str) -> str:
    """The gin file of a model, complete by itself but for T5's own `bi_v1.gin`.

    Args:
      architecture: of the model.
      comment: for its header, one line.
    """
    a = architecture
    activation = list(a.activations) if a.gated else a.activations[0]
    lines = [
        "# -*-Python-*-",
        f"# {comment}",
        f"# Parameters: {a.parameters:,} (vocabulary of {a.vocab_size:,}, padding included).",
        "include 'models/bi_v1.gin'",
        "",
        f"d_model = {a.d_model}",
        f"d_ff = {a.d_ff}",
        f"num_heads = {a.num_heads}",
        f"d_kv = {a.d_kv}",
        f"dropout_rate = {a.dropout_rate}",
        f"DenseReluDense.activation = {_quoted(activation)}",
    ]
    if a.num_buckets != 32:
        lines.append(f"SelfAttention.relative_attention_num_buckets = {a.num_buckets}")
    for stack in STACKS:
        lines += _stack(stack, getattr(a, stack))
        if not a.tied_logits:
            lines.append(f"{stack}/Unitransformer.shared_embedding_and_softmax_weights = False")
    if a.num_experts:
        lines += _switch(a, activation)
    return "\n".join(lines) + "\n"


def _stack(stack: str, sparse: Sequence[bool]) -> list[str]:
    repeated = period(sparse)
    layers = []
    for is_sparse in sparse[:repeated]:
        layers += [*_ATTENTION[stack], _SPARSE if is_sparse else _DENSE]
    return [
        "",
        f"{stack}/transformer.make_layer_stack.layers = [",
        *(f"    {layer}," for layer in layers),
        "]",
        f"{stack}/transformer.make_layer_stack.num_layers = {len(sparse) // repeated}",
    ]


def _switch(architecture: Architecture, activation: str | list[str]) -> list[str]:
    capacity = architecture.capacity
    return [
        "",
        f"num_experts = {architecture.num_experts}",
        "SwitchFFN.num_experts = %num_experts",
        f"SwitchFFN.activation = {_quoted(activation)}",
        f"Exploration.jitter = {architecture.input_jitter}",
        f"ExpertCapacity.capacity_factor_train = {capacity.capacity_factor_train}",
        f"ExpertCapacity.capacity_factor_eval = {capacity.capacity_factor_eval}",
        f"ExpertCapacity.min_expert_capacity = {capacity.min_expert_capacity}",
        f"ExpertCapacity.group_size = {capacity.group_size}",
        f"ExpertCapacity.max_group_size = {capacity.max_group_size}",
        "# s = 0.1 (Section 2.4, Table 3), for what is initialised afresh.",
        "init_scale.s = 0.1",
    ]


def _quoted(value: Any) -> str:
    return repr(value).replace("'", '"')


def write_t5x(folder: str, architecture: Architecture) -> None:
    """Writes what a model of T5X is built from, by the names of its gin files' macros."""
    a = architecture
    values = {
        "NUM_ENCODER_LAYERS": len(a.encoder),
        "NUM_DECODER_LAYERS": len(a.decoder),
        "NUM_HEADS": a.num_heads,
        "HEAD_DIM": a.d_kv,
        "EMBED_DIM": a.d_model,
        "MLP_DIM": a.d_ff,
        "NUM_EMBEDDINGS": a.vocab_size,
        "DROPOUT_RATE": a.dropout_rate,
    }
    if a.num_experts:
        values |= {
            "NUM_EXPERTS": a.num_experts,
            "NUM_ENCODER_SPARSE_LAYERS": sum(a.encoder),
            "NUM_DECODER_SPARSE_LAYERS": sum(a.decoder),
            "TRAIN_EXPERT_CAPACITY_FACTOR": a.capacity.capacity_factor_train,
            "EVAL_EXPERT_CAPACITY_FACTOR": a.capacity.capacity_factor_eval,
            "moe_layers.MoeLayer.max_group_size": a.capacity.max_group_size,
            "moe_layers.MoeLayer.min_expert_capacity": a.capacity.min_expert_capacity,
            "JITTER_NOISE": a.input_jitter,
        }
    values["dense.MlpBlock.activations"] = tuple(a.activations)
    with open(os.path.join(folder, "config.gin"), "w", encoding="utf-8") as file:
        file.write("# Of a converted checkpoint: what T5X's gin files leave to be filled in.\n")
        file.writelines(f"{name} = {value!r}\n" for name, value in values.items())


def find(folders: Iterable[str]) -> str | None:
    """The first config.gin or operative_config.gin of these folders, None if there is none."""
    for folder in folders:
        for name in ("config.gin", "operative_config.gin"):
            if os.path.isfile(os.path.join(folder, name)):
                return os.path.join(folder, name)
    return None


def believed(
    path: str, folders: Sequence[str], found: Architecture
) -> tuple[Architecture, list[str]]:
    """Joins what the gin file beside a checkpoint says with what its tensors are.

    Args:
      path: of the checkpoint, for messages.
      folders: where its gin file may be.
      found: read off the tensors.

    Returns:
      The architecture, and notes for the user.

    Raises:
      UserError: if they contradict each other, or this is a known faulty copy.
    """
    public_checkpoints.check_gates(path, found)
    public = public_checkpoints.like(found)
    if public:
        found = dataclasses.replace(found, capacity=public.capacity)
    gin_file = find(folders)
    if gin_file:
        return applied(gin_file, found), []
    activations = " x ".join(found.activations)
    return found, [f"No config.gin beside {path}: activations are taken to be {activations}."]


def applied(path: str, found: Architecture) -> Architecture:
    """An architecture that was read off shapes, with what a gin file says that they do not.

    Args:
      path: of a gin file of Mesh TensorFlow or T5X.
      found: the architecture.

    Raises:
      UserError: if it is no gin file, or contradicts the shapes.
    """
    told = _told(path)
    activations = told.pop("activations", found.activations)
    if isinstance(activations, str):
        activations = (activations,)
    if (len(activations) == 2) != found.gated:
        raise UserError(
            f"{path} says that feed-forward layers have the activations "
            f"{' x '.join(activations)}, but the checkpoint has "
            f"{'two input matrices' if found.gated else 'one input matrix'} in each."
        )
    of_capacity = {field.name for field in dataclasses.fields(ExpertCapacity)}
    capacity = {name: told.pop(name) for name in of_capacity & set(told)}
    return dataclasses.replace(
        found,
        activations=tuple(activations),
        capacity=dataclasses.replace(found.capacity, **capacity),
        **told,
    )


def _told(path: str) -> dict[str, Any]:
    """The values that a gin file binds of those in _NAMES."""
    values = _bindings(path)
    found = {}
    for attribute, names in _NAMES.items():
        for name, value in values.items():
            known = any(name == end or name.endswith("." + end) for end in names)
            if known and value is not None:
                found.setdefault(attribute, value)
    return found


def _bindings(path: str) -> Mapping[str, Any]:
    """Each `selector.argument` or macro of a file, with its value, macros replaced."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The gin file {path} cannot be read: {error}.") from error
    bindings = gin_statements.read_bindings(text, source=f"The gin file {path}")
    values = {".".join(filter(None, (b.name, b.parameter))): b.value for b in bindings}
    return {name: _resolved(value, values) for name, value in values.items()}


def _resolved(value: Any, values: Mapping[str, Any], depth: int = 0) -> Any:
    """A value without macros; None for a reference to what gin makes."""
    if isinstance(value, gin_statements.Macro) and depth < 10:
        return _resolved(values.get(value.name), values, depth + 1)
    return None if isinstance(value, gin_statements.Reference) else value
