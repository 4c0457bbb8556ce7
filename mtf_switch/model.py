"""The Transformer with Switch layers, checked before minutes are spent on building it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gin
import mesh_tensorflow as mtf
from mesh_tensorflow.transformer import transformer, utils

from mtf_switch import capacity, dimensions
from mtf_switch.errors import UserError
from mtf_switch.run_config import RunSettings
from mtf_switch.switch_ffn import SwitchFFN


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
    with explained():
        model = utils.build_model(
            model_type=settings.model_type,
            input_vocab_size=utils.inputs_vocabulary(vocabulary).vocab_size,
            output_vocab_size=utils.targets_vocabulary(vocabulary).vocab_size,
            layout_rules=settings.layout_rules,
            mesh_shape=settings.mesh_shape,
        )
    for stack in stacks(model):
        for layer in switch_layers(stack):
            layer.on_tpu = on_tpu
    check(model, settings)
    return model


@contextlib.contextmanager
def explained() -> Iterator[None]:
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


def switch_layers(stack: transformer.Unitransformer, kind: type = SwitchFFN) -> list[SwitchFFN]:
    """The Switch layers of a stack, in order."""
    return [layer for layer in stack.layer_stack.layers if isinstance(layer, kind)]


def check(model: Any, settings: RunSettings) -> None:
    """Checks every Switch layer against the mesh, the batch and its capacity.

    Raises:
      UserError: where something does not divide, or an expert has no slot.
    """
    for stack in stacks(model):
        feature = "inputs" if stack.name == "encoder" else "targets"
        length = settings.sequence_length.get(feature, max(settings.sequence_length.values()))
        for layer in switch_layers(stack):
            _check_layer(stack, layer, settings, length)


def _check_layer(
    stack: transformer.Unitransformer, layer: SwitchFFN, settings: RunSettings, length: int
) -> None:
    where = f"{stack.name}/{layer.name}"
    ways = dimensions.cores(
        settings.layout_rules, settings.mesh_shape, dimensions.experts(layer.num_experts)
    )
    if layer.num_experts % ways:
        below = layer.num_experts // ways * ways
        valid = [str(number) for number in (below, below + ways) if number]
        raise UserError(
            f"{where}: SwitchFFN.num_experts = {layer.num_experts} does not divide over the "
            f"{ways} cores that layout rule 'experts' splits them over. The nearest that "
            f"do: {' and '.join(valid)}."
        )
    batch = mtf.Dimension("batch", settings.batch_size)
    cores = dimensions.cores(settings.layout_rules, settings.mesh_shape, batch)
    microbatches = utils.serialize_num_microbatches(
        batch, settings.sequence_length, settings.mesh_shape, settings.layout_rules
    )
    tokens = settings.batch_size * length
    sizes = {capacity.TRAIN: tokens // microbatches, capacity.EVAL: tokens}
    for mode, tokens_of_mode in sizes.items():
        try:
            _, group_size = layer.capacity.groups(tokens_of_mode, cores)
            layer.capacity.slots(group_size, layer.num_experts, mode)
        except UserError as error:
            part = f", {microbatches} microbatches" if mode == capacity.TRAIN else ""
            raise UserError(
                f"{where}: {error} (In {mode}: batch {settings.batch_size} x length {length}"
                f"{part if microbatches > 1 else ''}.)"
            ) from error
