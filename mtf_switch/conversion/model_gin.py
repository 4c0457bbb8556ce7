"""Writes model.gin and config.gin, which turn a converted checkpoint into a model_dir."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mtf_switch import whole_file
from mtf_switch.config import bound_settings, gin_config, saved_config
from mtf_switch.conversion.architecture import STACKS, VOCAB_DIVISOR, Architecture
from mtf_switch.conversion.tensor_names import MTF, Format
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import kept_vocabulary

MODEL_GIN = "model.gin"
CONFIG_GIN = "config.gin"
# The run of a converted model, unless the user passes another one.
DEFAULT_RUN = "runs/converted.gin"

_DENSE, _SPARSE = "@transformer_layers.DenseReluDense", "@SwitchFFN"
_ATTENTION = {
    "encoder": ["@transformer_layers.SelfAttention"],
    "decoder": ["@transformer_layers.SelfAttention", "@transformer_layers.EncDecAttention"],
}


def write_gin_files(
    folder: str,
    architecture: Architecture,
    dtype: str,
    *,
    source_format: Format,
    source: str,
    gin_files: Sequence[str],
    gin_params: Sequence[str],
    vocabulary: kept_vocabulary.Pair | None,
) -> None:
    """Writes model.gin, which describes the model, and config.gin, the whole configuration.

    Args:
      folder: The model_dir.
      architecture: The architecture of the model.
      dtype: Dtype of the variables.
      source_format: Format of the checkpoint that was converted.
      source: Path of the checkpoint that was converted.
      gin_files: Gin files of the run. If this is empty, the run of the source is kept; if the
        source has no run, DEFAULT_RUN is used.
      gin_params: Gin bindings of the run.
      vocabulary: The vocabularies of inputs and targets that the folder keeps; None for none.

    Raises:
      UserError: If Mesh TensorFlow cannot have such a vocabulary, or for a mistake in the gin
        files and bindings.
    """
    _check_vocabulary(source, architecture.vocab_size)
    name = os.path.basename(os.path.normpath(source))
    if not name.isprintable():  # a line break would end the comment
        name = repr(name)
    model = os.path.join(folder, MODEL_GIN)
    text = format_model(architecture, f"Converted from {name} ({source_format}).")
    whole_file.write_text(model, text)
    own_config = _find_config(source) if source_format == MTF else None
    files, saved = [model, *gin_files], gin_config.SavedText()
    if not gin_files and own_config:
        saved = saved_config.read(own_config)
    elif not gin_files:
        files.append(DEFAULT_RUN)
    params = [f"utils.get_variable_dtype.master_dtype = {dtype!r}", *gin_params]
    gin_config.parse(files, params, saved)
    if vocabulary:
        kept_vocabulary.bind(vocabulary)
    bound_settings.read_settings()  # raises UserError if the run lacks a binding
    whole_file.write_text(os.path.join(folder, CONFIG_GIN), gin_config.to_text())


def is_converted(folder: str) -> bool:
    """Returns whether a model_dir holds a converted checkpoint, whose step may be 0."""
    return whole_file.exists(os.path.join(folder, MODEL_GIN))


def _check_vocabulary(source: str, vocab_size: int) -> None:
    if vocab_size % VOCAB_DIVISOR:
        padded = -(-vocab_size // VOCAB_DIVISOR) * VOCAB_DIVISOR
        raise UserError(
            f"The vocabulary of {source} has {vocab_size} rows, but in Mesh TensorFlow their "
            f"number must be a multiple of {VOCAB_DIVISOR}. In transformers, "
            f"model.resize_token_embeddings({padded}) adds rows. Only you can know "
            "which values suit them, so convert does not add them."
        )


def _find_config(source: str) -> str | None:
    """Returns the config.gin of a Mesh TensorFlow checkpoint, or None if it has none."""
    path = os.path.abspath(os.path.join(find_folder(source), CONFIG_GIN))
    return path if os.path.isfile(path) else None


def find_folder(source: str) -> str:
    """Returns the folder of a Mesh TensorFlow checkpoint, given that folder or a path in it."""
    return source if os.path.isdir(source) else os.path.dirname(source)


def find_shortest_period(sparse: Sequence[bool]) -> int:
    """Returns the smallest number of blocks whose pattern repeats through the whole stack.

    Args:
      sparse: For each T5 block, whether it is sparse.
    """
    return next(
        period
        for period in range(1, len(sparse) + 1)
        if len(sparse) % period == 0
        and all(is_sparse == sparse[i % period] for i, is_sparse in enumerate(sparse))
    )


def format_model(architecture: Architecture, comment: str) -> str:
    """Returns the gin file of a model. It includes only T5's own `bi_v1.gin`.

    Args:
      architecture: The architecture of the model.
      comment: One line for the header.
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
        f"dropout_rate = {a.dropout_rate!r}",
        f"DenseReluDense.activation = {_quote(activation)}",
    ]
    if a.num_buckets != 32:
        lines.append(f"SelfAttention.relative_attention_num_buckets = {a.num_buckets}")
    for stack in STACKS:
        lines += _format_stack(stack, getattr(a, stack))
        if not a.tied_logits:
            lines.append(f"{stack}/Unitransformer.shared_embedding_and_softmax_weights = False")
    if a.num_experts:
        lines += _format_switch(a, activation)
    return "\n".join(lines) + "\n"


def _format_stack(stack: str, sparse: Sequence[bool]) -> list[str]:
    period = find_shortest_period(sparse)
    layers = []
    for is_sparse in sparse[:period]:
        layers += [*_ATTENTION[stack], _SPARSE if is_sparse else _DENSE]
    return [
        "",
        f"{stack}/transformer.make_layer_stack.layers = [",
        *(f"    {layer}," for layer in layers),
        "]",
        f"{stack}/transformer.make_layer_stack.num_layers = {len(sparse) // period}",
    ]


def _format_switch(architecture: Architecture, activation: str | list[str]) -> list[str]:
    capacity = architecture.capacity
    return [
        "",
        f"num_experts = {architecture.num_experts}",
        "SwitchFFN.num_experts = %num_experts",
        f"SwitchFFN.activation = {_quote(activation)}",
        *_format_router(architecture),
        f"Exploration.jitter = {architecture.input_jitter!r}",
        f"ExpertCapacity.capacity_factor_train = {capacity.capacity_factor_train}",
        f"ExpertCapacity.capacity_factor_eval = {capacity.capacity_factor_eval}",
        f"ExpertCapacity.min_expert_capacity = {capacity.min_expert_capacity}",
        f"ExpertCapacity.group_size = {capacity.group_size}",
        f"ExpertCapacity.max_group_size = {capacity.max_group_size}",
        "# The scale s = 0.1 (Section 2.4, Table 3), for weights that are newly initialized.",
        "init_scale.s = 0.1",
    ]


def _format_router(architecture: Architecture) -> list[str]:
    """Returns the bindings of the router, unless it is SwitchRouter."""
    if architecture.experts_per_token > 1:
        name, parameter = "TopKRouter", f"k = {architecture.experts_per_token}"
    elif architecture.routing_stages > 1:
        name, parameter = "NoTokenLeftBehindRouter", f"stages = {architecture.routing_stages}"
    else:
        return []
    return [f"SwitchFFN.router = @{name}()", f"{name}.{parameter}"]


def _quote(value: Any) -> str:
    return repr(value).replace("'", '"')
