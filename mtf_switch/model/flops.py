"""Parameters and FLOPs of a model, counted on the Mesh TF graph that it trains with."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.model.switch_transformer import stacks, switch_layers

# Operations through which a weight reaches a matrix product with its values unchanged.
_TRANSPARENT = ("SlicewiseOperation", "ReshapeOperation", "UnstackOperation")
# The dimensions that index the slots of all experts.
_SLOTS = ("experts", "batch_unsplit", "expert_capacity")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs; a multiplication and an addition are two FLOPs.

    Attributes:
      parameters: trainable ones.
      flops_per_sequence: forward, of one pair of inputs and targets at full length, as
        Table 9 counts: products with the weights of the blocks, each token in the experts
        that it visits, which is one but for a top-k router.
        Attention scores, embedding, logits, dispatch and empty slots are left out. T5-Base
        at 512 + 114 tokens gives the 124e9 of the paper.
      arithmetic_per_sequence: forward, of all matrix products that are done where dispatch
        is the paper's.
      tokens_per_sequence: inputs and targets.
    """

    parameters: int
    flops_per_sequence: float
    arithmetic_per_sequence: float
    tokens_per_sequence: int

    @property
    def flops_per_token(self) -> float:
        """`flops_per_sequence` over its tokens."""
        return self.flops_per_sequence / self.tokens_per_sequence


def compute_cost(model: Any, settings: RunSettings) -> Cost:
    """Counts a model's parameters and FLOPs; nothing is lowered, no variable is made.

    Args:
      model: a transformer.Bitransformer.
      settings: of the run: batch size and lengths decide how full the experts' slots are.

    Returns:
      The Cost.
    """
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        ids = {
            name: mtf.zeros(
                mesh,
                mtf.Shape(
                    [
                        mtf.Dimension("batch", settings.batch_size),
                        mtf.Dimension("length", length),
                    ]
                ),
                dtype=tf.int32,
            )
            for name, length in settings.sequence_length.items()
        }
        with _dispatch_by_einsum(model):
            model.call_simple(
                ids["inputs"],
                ids["targets"],
                compute_loss=True,
                mode="train",
                variable_dtype=utils.get_variable_dtype(),
            )
    products = [op for op in graph.operations if isinstance(op, mtf.EinsumOperation)]
    return Cost(
        parameters=sum(variable.size for variable in graph.trainable_variables),
        flops_per_sequence=compute_flops_per_sequence(
            model, products, settings.batch_size, settings
        ),
        arithmetic_per_sequence=(
            sum(_size(_dims(op)) for op in products) / settings.batch_size
        ),
        tokens_per_sequence=sum(settings.sequence_length.values()),
    )


def compute_flops_per_sequence(
    model: Any, products: Iterable[mtf.Operation], batch_size: int, settings: RunSettings
) -> float:
    """FLOPs of a sequence, forward, as Table 9 counts them; see `Cost`.

    Args:
      model: that they are of.
      products: the EinsumOperations of a forward pass over one batch or microbatch.
      batch_size: how many sequences that is.
      settings: of the run.
    """
    lengths = settings.sequence_length
    tokens = {
        "encoder": batch_size * lengths.get("inputs", 0),
        "decoder": batch_size * lengths["targets"],
    }
    # How many tokens go through all experts of a layer together.
    visits = {
        f"{stack.name}/{layer.scope}/": layer.router.experts_per_token * tokens[stack.name]
        for stack in stacks(model)
        for layer in switch_layers(stack)
    }
    return sum(_useful(product, visits) for product in products) / batch_size


@contextlib.contextmanager
def _dispatch_by_einsum(model: Any) -> Iterator[None]:
    """Makes the experts of a model products of Mesh TF, which can be counted."""
    layers = [layer for stack in stacks(model) for layer in switch_layers(stack)]
    before = [layer.dispatch_method for layer in layers]
    for layer in layers:
        layer.dispatch_method = "einsum"
    try:
        yield
    finally:
        for layer, dispatch in zip(layers, before):
            layer.dispatch_method = dispatch


def _dims(product: mtf.Operation) -> set[mtf.Dimension]:
    return {dim for tensor in product.inputs for dim in tensor.shape.dims}


def _size(dims: set[mtf.Dimension]) -> float:
    """FLOPs of a matrix product over these dimensions."""
    return 2.0 * mtf.Shape(list(dims)).size


def _useful(product: mtf.Operation, visits: dict[str, int]) -> float:
    """FLOPs of a product as Table 9 counts them; 0 for what it leaves out."""
    dims = _dims(product)
    names = {dim.name for dim in dims}
    if "vocab" in names or not any(_is_weight(tensor) for tensor in product.inputs):
        return 0.0
    if not names & {"batch", "batch_unsplit"}:
        return 0.0  # relative position biases: once for all sequences
    if "experts" not in names:
        return _size(dims)
    # However many slots there are, a token is in one for each expert that it visits.
    in_slots = {dim for dim in dims if dim.name in _SLOTS}
    tokens = next(n for scope, n in visits.items() if product.name.startswith(scope))
    return _size(dims - in_slots) * tokens


def _is_weight(tensor: mtf.Tensor) -> bool:
    operation = tensor.operation
    while type(operation).__name__ in _TRANSPARENT:
        operation = operation.inputs[0].operation
    return isinstance(operation, mtf.Variable)
