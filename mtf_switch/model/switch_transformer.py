"""Builds the Transformer with Switch layers, and checks the model before its graph is built.

A large graph takes minutes to build, so mistakes in the configuration are reported first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gin
import mesh_tensorflow as mtf
from mesh_tensorflow.transformer import transformer, transformer_layers, utils

from mtf_switch.config import unread_bindings
from mtf_switch.config.mesh_layout import Tensor
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError
from mtf_switch.layers import dimensions
from mtf_switch.layers.capacity import InferenceCapacity
from mtf_switch.layers.routing import Observe
from mtf_switch.layers.switch_layer import SwitchLayer
from mtf_switch.model import attention_order, decoding_caches, model_errors, softmax_kernels
from mtf_switch.model.batch import batch_dimensions, count_microbatches

# How many copies of the experts there are.
_COPIES = "utils.tpu_estimator_model_fn.outer_batch_size"


def build(
    settings: RunSettings,
    vocabulary: Any,
    on_tpu: bool = False,
    inference: InferenceCapacity | None = None,
    observe: Observe | None = None,
    compiled: bool = False,
) -> Any:
    """Builds Mesh TF's Transformer from gin, and checks it.

    Args:
      settings: The settings of the run.
      vocabulary: A vocabulary, or an (inputs, targets) pair.
      on_tpu: Whether the graph is for a TPU, which decides how Switch layers dispatch tokens.
      inference: The experts' capacity if the model is to predict or score lines of text; None
        for that of evaluation. It also decides what is checked, see `check_model`.
      observe: A function that sees the routing of each Switch layer, see
        `SwitchLayer.set_target`.
      compiled: Whether XLA compiles the graph for a CPU or GPU, which needs static shapes.

    Returns:
      A transformer.Bitransformer or Unitransformer.

    Raises:
      UserError: If the configuration is wrong. Upstream would ignore some of these mistakes, or
        fail much later.
    """
    with model_errors.convert_value_errors(), model_errors.convert_type_errors():
        check_layer_specifications()
        model = utils.build_model(
            model_type=settings.model_type,
            input_vocab_size=utils.inputs_vocabulary(vocabulary).vocab_size,
            output_vocab_size=utils.targets_vocabulary(vocabulary).vocab_size,
            layout_rules=settings.layout_rules,
            mesh_shape=settings.mesh_shape,
        )
    for stack in stacks(model):
        if not on_tpu and not compiled:
            attention_order.put_heads_first(stack.layer_stack.layers)
            decoding_caches.use_caches_by_index(stack)
            # Last, since it wraps the attention of the others.
            softmax_kernels.use(stack)
        for layer in switch_layers(stack):
            layer.set_target(
                on_tpu=on_tpu, compiled=compiled, inference=inference, observe=observe
            )
    check_model(model, settings, of_lines=inference is not None)
    unread_bindings.check_model()
    return model


@gin.configurable(module="mtf_switch.model")
def activation_of_dense_layers() -> str | list[str]:
    """Returns the activation that gin binds to DenseReluDense: the default for the experts."""
    return gin.get_bindings(transformer_layers.DenseReluDense).get("activation", "relu")


@gin.configurable(module="mtf_switch.model")
def pairs_of_blocks(num_layers: int) -> int:
    """Returns the number of blocks in a stack whose blocks are pairs of T5 blocks.

    gin/sparsity/every_other_switch.gin has such blocks.

    Args:
      num_layers: The number of T5 blocks in each stack.

    Raises:
      UserError: If the number is odd.
    """
    if num_layers % 2:
        raise UserError(
            f"num_layers is {num_layers}, but with a Switch layer in every other block "
            "(sparsity/every_other_switch.gin) blocks come in pairs: choose an even number, or "
            "sparsity/every_switch.gin."
        )
    return num_layers // 2


def check_layer_specifications() -> None:
    """Checks that no entry of `make_layer_stack.layers` is a list of several layers.

    Upstream would keep one layer of such a list and ignore the others.

    Raises:
      UserError: If an entry is such a list.
    """
    for scope in ("", "encoder", "decoder"):
        with gin.config_scope(scope or None):
            layers = gin.get_bindings("transformer.make_layer_stack").get("layers", [])
        for index, entry in enumerate(layers):
            if not isinstance(entry, (list, tuple)):
                continue
            classes = [x for x in entry if not isinstance(x, (str, dict))]
            if len(classes) == 1 and not isinstance(classes[0], (list, tuple)):
                continue
            raise UserError(
                f"{scope + '/' if scope else ''}make_layer_stack.layers[{index}] is a list "
                f"of {len(classes)} layers: {[_get_name(c) for c in classes]}. Mesh TensorFlow "
                "would silently keep only one of them. An entry is a layer, or a list of one "
                "layer, its name and its parameters: write each layer as a separate entry."
            )


def _get_name(layer: Any) -> str:
    return getattr(layer, "__name__", str(layer))


def stacks(model: Any) -> Iterator[transformer.Unitransformer]:
    """Yields the encoder and the decoder, or the only stack of a language model."""
    if isinstance(model, transformer.Bitransformer):
        yield model.encoder
        yield model.decoder
    else:
        yield model


def switch_layers(stack: transformer.Unitransformer) -> list[SwitchLayer]:
    """Returns the Switch layers of a stack in order, including those inside SwitchAttention."""
    return [part for layer in stack.layer_stack.layers for part in _list_switch_layers(layer)]


def _list_switch_layers(layer: Any) -> Sequence[SwitchLayer]:
    """Returns the `switch_layers` of a layer of this project; empty for other layers."""
    return getattr(layer, "switch_layers", ())


def check_model(model: Any, settings: RunSettings, of_lines: bool = False) -> None:
    """Checks that the layout can split every tensor and that groups and capacities are valid.

    Args:
      model: A transformer.Bitransformer or Unitransformer.
      settings: The settings of the run.
      of_lines: Whether the model is to predict or score lines of text, instead of training and
        evaluation.

    Raises:
      UserError: If a size does not divide, if two dimensions of a tensor are split over one
        mesh axis, or if an expert capacity is below 1.
    """
    settings.layout.check(list_tensors_to_split(model, settings, of_lines))
    for stack in stacks(model):
        for layer in switch_layers(stack):
            _check_capacity(stack, layer, settings, of_lines)


def _joins_features(settings: RunSettings, of_lines: bool) -> bool:
    """Whether a model reads inputs and targets as one sequence."""
    types = ("lm", "delimited_lm") if of_lines else ("delimited_lm",)
    return settings.model_type in types


def get_length(
    stack: transformer.Unitransformer, settings: RunSettings, of_lines: bool = False
) -> int:
    """Returns the number of tokens in a sequence of a stack.

    A "delimited_lm" reads the inputs and the targets as one sequence. When lines are predicted
    or scored (`of_lines`), an "lm" does so, too.
    """
    lengths = settings.sequence_length
    if _joins_features(settings, of_lines):
        return sum(lengths.get(feature, 0) for feature in ("inputs", "targets"))
    feature = "inputs" if stack.name == "encoder" else "targets"
    return lengths.get(feature, max(lengths.values()))


def _list_batch(settings: RunSettings, of_lines: bool) -> tuple[tuple[str, int], ...]:
    """Returns the sizes of the dimensions [O, B] or [B] of a microbatch, or [B] of lines."""
    if of_lines:
        return (("batch", settings.batch_size),)
    *outer, batch = batch_dimensions(settings)
    microbatch = (batch.name, batch.size // count_microbatches(settings))
    return (*map(_name_and_size, outer), microbatch)


def list_tensors_to_split(
    model: Any, settings: RunSettings, of_lines: bool = False
) -> Iterator[Tensor]:
    """Lists the tensors that decide whether a layout can split a model.

    Args:
      model: A transformer.Bitransformer or Unitransformer.
      settings: The settings of the run.
      of_lines: See `check_model`.

    Yields:
      The inputs, embeddings and logits of each stack, and the weights and activations of each
      layer. Their batch dimension is one microbatch.
    """
    batch = _list_batch(settings, of_lines)
    batch_fix = {
        "batch": "(utils.run.batch_size, or a microbatch of it)",
        dimensions.OUTER_BATCH: f"of {_COPIES}",
    }
    if _joins_features(settings, of_lines):
        for feature, length in settings.sequence_length.items():
            yield Tensor(f"the {feature}", (*batch, ("length", length)), batch_fix)
    for stack in stacks(model):
        x = (*batch, ("length", get_length(stack, settings, of_lines)))
        model_dim = _name_and_size(stack.model_dim)
        yield Tensor(f"{stack.name}'s input", (*x, model_dim), batch_fix)
        vocabularies = {stack.input_vocab_dim, stack.output_vocab_dim or stack.input_vocab_dim}
        for vocab in sorted(vocabularies, key=lambda dim: dim.size):
            fix = {"vocab": "of the padded vocabulary"}
            yield Tensor(f"{stack.name}'s embedding", (_name_and_size(vocab), model_dim), fix)
            yield Tensor(f"{stack.name}'s logits", (*x, _name_and_size(vocab)), fix)
        for layer in stack.layer_stack.layers:
            yield from _list_tensors_of_layer(f"{stack.name}/{layer.name}", layer, x, model_dim)


def _name_and_size(dim: mtf.Dimension) -> tuple[str, int]:
    return dim.name, dim.size


def _list_tensors_of_layer(
    where: str, layer: Any, x: tuple, model_dim: tuple
) -> Iterator[Tensor]:
    if isinstance(layer, transformer_layers.SelfAttention):
        heads, fix = ("heads", layer.num_heads), {"heads": "of num_heads"}
        d_kv = ("d_kv", layer.key_value_size)
        yield Tensor(f"{where}: attention's weights", (model_dim, heads, d_kv), fix)
        yield Tensor(f"{where}: attention's queries", (*x, heads, d_kv), fix)
        memory = ("memory_length", x[-1][1])
        yield Tensor(f"{where}: attention's logits", (*x, heads, memory), fix)
        for part in _list_switch_layers(layer):
            yield from _list_tensors_of_experts(f"{where}/{part.part}", part, x, model_dim)
    elif isinstance(layer, transformer_layers.DenseReluDense):
        hidden, fix = ("d_ff", layer.hidden_size), {"d_ff": "of d_ff"}
        yield Tensor(f"{where}: weights", (model_dim, hidden), fix)
        yield Tensor(f"{where}: hidden units", (*x, hidden), fix)
    elif isinstance(layer, SwitchLayer):
        yield from _list_tensors_of_experts(where, layer, x, model_dim)


def _list_tensors_of_experts(
    where: str, layer: SwitchLayer, x: tuple, model_dim: tuple
) -> Iterator[Tensor]:
    fix = {
        "experts": f"of {layer.gin_name}.num_experts",
        "expert_hidden": "of d_ff",
        "heads": "of num_heads",
    }
    # Without copies of the experts, the layer makes the dimension of their one set.
    if x[0][0] != dimensions.OUTER_BATCH:
        x = (_name_and_size(dimensions.outer_batch(1)), *x)
        fix[dimensions.OUTER_BATCH] = f"(1 for predicted or scored lines, or without {_COPIES})"
    experts = layer.experts
    for _, *dims in experts.kernel_specs(mtf.Dimension(*model_dim)):
        shape = (_name_and_size(experts.experts_dim), *map(_name_and_size, dims))
        yield Tensor(f"{where}: experts' weights", shape, fix)
        for dim in shape[1:]:
            yield Tensor(f"{where}: experts' slots", (x[0], shape[0], dim), fix)
    unsplit = _name_and_size(dimensions.experts_unsplit(layer.num_experts))
    yield Tensor(f"{where}: probabilities of experts", (*x, unsplit), fix)


def _check_capacity(
    stack: transformer.Unitransformer, layer: SwitchLayer, settings: RunSettings, of_lines: bool
) -> None:
    algorithm = layer.resolve_dispatch(settings.mesh_shape)
    length = get_length(stack, settings, of_lines)
    cores = settings.layout.ways("batch")
    microbatches = count_microbatches(settings)
    tokens = batch_dimensions(settings)[-1].size * length
    tokens_by_mode = {"train": tokens // microbatches, "eval": tokens}
    if of_lines:
        tokens_by_mode = {"eval": settings.batch_size * length}
    for mode, tokens_at_once in tokens_by_mode.items():
        try:
            _, group_size = layer.capacity.split_into_groups(
                tokens_at_once, cores, strict=not of_lines
            )
            layer.expert_capacity(algorithm, group_size, mode)
        except UserError as error:
            parts = (
                f", {microbatches} microbatches" if mode == "train" and microbatches > 1 else ""
            )
            raise UserError(
                f"{stack.name}/{layer.name}: {error} (In {mode}: batch {settings.batch_size} x "
                f"length {length}{parts}.)"
            ) from error
