"""The Transformer with Switch layers, checked before minutes are spent on building it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gin
import mesh_tensorflow as mtf
from mesh_tensorflow.transformer import transformer, transformer_layers, utils

from mtf_switch.config.mesh_layout import Tensor
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError
from mtf_switch.layers.switch_attention import SwitchAttention
from mtf_switch.layers.switch_layer import SwitchLayer


def build(settings: RunSettings, vocabulary: Any, on_tpu: bool = False) -> Any:
    """Builds Mesh TF's Transformer from gin, and checks it.

    Args:
      settings: of the run.
      vocabulary: a vocabulary, or an (inputs, targets) pair.
      on_tpu: whether the graph is for a TPU, which decides how Switch layers dispatch.

    Returns:
      A transformer.Bitransformer or Unitransformer.

    Raises:
      UserError: for what upstream would swallow, or would fail on long after.
    """
    check_layer_specifications()
    with convert_value_errors():
        model = utils.build_model(
            model_type=settings.model_type,
            input_vocab_size=utils.inputs_vocabulary(vocabulary).vocab_size,
            output_vocab_size=utils.targets_vocabulary(vocabulary).vocab_size,
            layout_rules=settings.layout_rules,
            mesh_shape=settings.mesh_shape,
        )
    for stack in stacks(model):
        for layer in switch_layers(stack):
            layer.set_target(on_tpu=on_tpu)
    check_model(model, settings)
    return model


@gin.configurable(module="mtf_switch.model")
def activation_of_dense_layers() -> str | list[str]:
    """What gin binds to DenseReluDense.activation, for `SwitchFFN.activation`."""
    return gin.get_bindings(transformer_layers.DenseReluDense).get("activation", "relu")


@gin.configurable(module="mtf_switch.model")
def pairs_of_blocks(num_layers: int) -> int:
    """Blocks of a stack in which each block is two of T5's (sparsity/every_other_switch.gin).

    Args:
      num_layers: T5's number of blocks in each stack.

    Raises:
      UserError: if they do not make pairs.
    """
    if num_layers % 2:
        raise UserError(
            f"num_layers is {num_layers}, but with a Switch layer in every other block "
            "(sparsity/every_other_switch.gin) blocks come in pairs: choose an even number, or "
            "sparsity/every_switch.gin."
        )
    return num_layers // 2


@contextlib.contextmanager
def convert_value_errors() -> Iterator[None]:
    """Turns the ValueErrors with which Mesh TF refuses a configuration into UserErrors."""
    try:
        yield
    except ValueError as error:
        message = str(error).split("\n  In call to configurable")[0]
        raise UserError(f"The model cannot be built as configured: {message}") from error


def check_layer_specifications() -> None:
    """Refuses nested lists in `make_layer_stack.layers`: upstream keeps one class of each.

    Raises:
      UserError: that names the entry.
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
                f"with {len(classes)} layers in it: {[_name(c) for c in classes]}. Mesh "
                "TensorFlow would keep one of them and drop the rest in silence. An entry is "
                "a layer, or a list of one layer, its name and its parameters; write each "
                "layer as an entry of its own."
            )


def _name(layer: Any) -> str:
    return getattr(layer, "__name__", str(layer))


def stacks(model: Any) -> Iterator[transformer.Unitransformer]:
    """The encoder and the decoder, or the one stack of a language model."""
    if isinstance(model, transformer.Bitransformer):
        yield model.encoder
        yield model.decoder
    else:
        yield model


def switch_layers(stack: transformer.Unitransformer) -> list[SwitchLayer]:
    """The Switch layers of a stack, in order; those in a SwitchAttention each."""
    layers: list[SwitchLayer] = []
    for layer in stack.layer_stack.layers:
        if isinstance(layer, SwitchLayer):
            layers.append(layer)
        elif isinstance(layer, SwitchAttention):
            layers.extend(layer.switch_layers)
    return layers


def check_model(model: Any, settings: RunSettings) -> None:
    """Checks the layout against every tensor, and each Switch layer against its capacity.

    Raises:
      UserError: where something does not divide, two dimensions of a tensor are on one mesh
        axis, or an expert has no slot.
    """
    settings.layout.check(list_tensors_to_split(model, settings))
    for stack in stacks(model):
        for layer in switch_layers(stack):
            layer.resolve_dispatch(settings.mesh_shape)
            _check_capacity(stack, layer, settings)


def count_microbatches(settings: RunSettings) -> int:
    """Into how many parts, one after the other, a training step's batch is cut."""
    return utils.serialize_num_microbatches(
        mtf.Dimension("batch", settings.batch_size),
        settings.sequence_length,
        settings.mesh_shape,
        settings.layout_rules,
    )


def _length(stack: transformer.Unitransformer, settings: RunSettings) -> int:
    feature = "inputs" if stack.name == "encoder" else "targets"
    return settings.sequence_length.get(feature, max(settings.sequence_length.values()))


def list_tensors_to_split(model: Any, settings: RunSettings) -> Iterator[Tensor]:
    """The tensors that decide whether a layout can split a model.

    Args:
      model: a transformer.Bitransformer or Unitransformer.
      settings: of the run; the batch is one microbatch.

    Yields:
      Tensors with their dimensions: features, embeddings and logits, and of each layer the
      weights and the activations between them.
    """
    batch = ("batch", settings.batch_size // count_microbatches(settings))
    batch_fix = {"batch": "(utils.run.batch_size, or a microbatch of it)"}
    for stack in stacks(model):
        x = (batch, ("length", _length(stack, settings)))
        model_dim = _pair(stack.model_dim)
        yield Tensor(f"{stack.name}'s input", (*x, model_dim), batch_fix)
        vocabularies = {stack.input_vocab_dim, stack.output_vocab_dim or stack.input_vocab_dim}
        for vocab in sorted(vocabularies, key=lambda dim: dim.size):
            fix = {"vocab": "of the padded vocabulary"}
            yield Tensor(f"{stack.name}'s embedding", (_pair(vocab), model_dim), fix)
            yield Tensor(f"{stack.name}'s logits", (*x, _pair(vocab)), fix)
        for layer in stack.layer_stack.layers:
            yield from _tensors_of_layer(f"{stack.name}/{layer.name}", layer, x, model_dim)


def _pair(dim: mtf.Dimension) -> tuple[str, int]:
    return dim.name, dim.size


def _tensors_of_layer(where: str, layer: Any, x: tuple, model_dim: tuple) -> Iterator[Tensor]:
    if isinstance(layer, transformer_layers.SelfAttention):
        heads, fix = ("heads", layer.num_heads), {"heads": "of num_heads"}
        d_kv = ("d_kv", layer.key_value_size)
        yield Tensor(f"{where}: attention's weights", (model_dim, heads, d_kv), fix)
        yield Tensor(f"{where}: attention's queries", (*x, heads, d_kv), fix)
        memory = ("memory_length", x[1][1])
        yield Tensor(f"{where}: attention's logits", (*x, heads, memory), fix)
        if isinstance(layer, SwitchAttention):
            for part in layer.switch_layers:
                yield from _tensors_of_experts(f"{where}/{part.part}", part, x, model_dim)
    elif isinstance(layer, transformer_layers.DenseReluDense):
        hidden, fix = ("d_ff", layer.hidden_size), {"d_ff": "of d_ff"}
        yield Tensor(f"{where}: weights", (model_dim, hidden), fix)
        yield Tensor(f"{where}: hidden units", (*x, hidden), fix)
    elif isinstance(layer, SwitchLayer):
        yield from _tensors_of_experts(where, layer, x, model_dim)


def _tensors_of_experts(
    where: str, layer: SwitchLayer, x: tuple, model_dim: tuple
) -> Iterator[Tensor]:
    fix = {
        "experts": f"of {layer.gin_name}.num_experts",
        "expert_hidden": "of d_ff",
        "heads": "of num_heads",
    }
    experts = layer.experts
    for _, *dims in experts.kernel_specs(mtf.Dimension(*model_dim)):
        shape = (_pair(experts.experts_dim), *map(_pair, dims))
        yield Tensor(f"{where}: experts' weights", shape, fix)
    unsplit = ("expert_unsplit", layer.num_experts)
    yield Tensor(f"{where}: probabilities of experts", (*x, unsplit), fix)


def _check_capacity(
    stack: transformer.Unitransformer, layer: SwitchLayer, settings: RunSettings
) -> None:
    length = _length(stack, settings)
    cores = settings.layout.ways("batch")
    parts = count_microbatches(settings)
    tokens = settings.batch_size * length
    sizes = {"train": tokens // parts, "eval": tokens}
    for mode, tokens_of_mode in sizes.items():
        try:
            _, group_size = layer.capacity.split_into_groups(tokens_of_mode, cores)
            layer.capacity.expert_capacity(group_size, layer.num_experts, mode)
        except UserError as error:
            part = f", {parts} microbatches" if mode == "train" and parts > 1 else ""
            raise UserError(
                f"{stack.name}/{layer.name}: {error} (In {mode}: batch {settings.batch_size} x "
                f"length {length}{part}.)"
            ) from error
