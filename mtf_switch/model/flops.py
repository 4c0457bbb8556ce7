"""Counts the parameters and FLOPs of a model on the Mesh TF graph that it trains with."""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.layers import dimensions
from mtf_switch.model.switch_transformer import get_length, stacks, switch_layers

# Operations that pass the values of a weight to a matmul unchanged.
_TRANSPARENT = ("SlicewiseOperation", "ReshapeOperation", "UnstackOperation")
# The dimensions that index the expert inputs of all experts, unused capacity included.
_CAPACITY_DIMS = tuple(
    make(1).name
    for make in (
        *(dimensions.outer_batch, dimensions.experts),
        *(dimensions.groups_unsplit, dimensions.expert_capacity),
    )
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The parameters of a model and its FLOPs; a multiplication and an addition are two FLOPs.

    Attributes:
      parameters: The number of trainable parameters.
      flops_per_sequence: Forward FLOPs of a sequence (inputs and targets at full length),
        counted as in Table 9. The count includes the matmuls with the weights of the blocks; a
        token counts once for every expert to which it is sent. It excludes attention scores,
        embedding, logits, dispatch and unused expert capacity. T5-Base at 512 + 114 tokens has
        the paper's 124e9.
      arithmetic_per_sequence: Forward FLOPs of a sequence in all matmuls, if one-hot matmuls
        dispatch the tokens as in the paper.
      tokens_per_sequence: Tokens in the inputs and targets.
    """

    parameters: int
    flops_per_sequence: float
    arithmetic_per_sequence: float
    tokens_per_sequence: int

    @property
    def flops_per_token(self) -> float:
        """`flops_per_sequence` divided by `tokens_per_sequence`."""
        return self.flops_per_sequence / self.tokens_per_sequence


def compute_cost(model: Any, settings: RunSettings) -> Cost:
    """Counts a model's parameters and FLOPs, without lowering its graph or creating variables.

    Args:
      model: A transformer.Bitransformer.
      settings: The settings of the run. The batch size and the sequence lengths determine the
        expert capacity.
    """
    with tf.Graph().as_default(), _without_variables():
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        batch = mtf.Dimension("batch", settings.batch_size)
        ids = {
            name: mtf.zeros(
                mesh, mtf.Shape([batch, mtf.Dimension("length", length)]), dtype=tf.int32
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
    matmuls = [op for op in graph.operations if isinstance(op, mtf.EinsumOperation)]
    return Cost(
        parameters=sum(variable.size for variable in graph.trainable_variables),
        flops_per_sequence=compute_flops_per_sequence(
            model, matmuls, settings.batch_size, settings
        ),
        arithmetic_per_sequence=(
            sum(_count_flops(_collect_dims(op)) for op in matmuls) / settings.batch_size
        ),
        tokens_per_sequence=sum(settings.sequence_length.values()),
    )


def compute_flops_per_sequence(
    model: Any, matmuls: Iterable[mtf.Operation], batch_size: int, settings: RunSettings
) -> float:
    """Computes the forward FLOPs of a sequence, counted as in Table 9; see `Cost`.

    Args:
      model: The model that the matmuls belong to.
      matmuls: The EinsumOperations of one forward pass, over a batch or a microbatch.
      batch_size: The number of sequences in that pass.
      settings: The settings of the run.
    """
    # Scope of a Switch layer -> tokens that its experts process, all experts together.
    expert_tokens = {
        f"{stack.name}/{layer.scope}/": (
            layer.router.experts_per_token * batch_size * get_length(stack, settings)
        )
        for stack in stacks(model)
        for layer in switch_layers(stack)
    }
    flops = sum(_count_flops_as_in_table_9(matmul, expert_tokens) for matmul in matmuls)
    return flops / batch_size


@contextlib.contextmanager
def _without_variables() -> Iterator[None]:
    """Lets Mesh TF build its graph without TensorFlow variables, which take the most time."""

    def name_only(getter: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        del getter, args, kwargs
        return types.SimpleNamespace(name=f"{name}:0")

    tf.train.get_or_create_global_step()
    with tf.variable_scope(tf.get_variable_scope(), custom_getter=name_only):
        yield


@contextlib.contextmanager
def _dispatch_by_einsum(model: Any) -> Iterator[None]:
    """Makes the experts of a model use Mesh TF's matmuls, which can be counted."""
    layers = [layer for stack in stacks(model) for layer in switch_layers(stack)]
    before = [layer.dispatch_method for layer in layers]
    for layer in layers:
        layer.dispatch_method = "einsum"
    try:
        yield
    finally:
        for layer, method in zip(layers, before):
            layer.dispatch_method = method


def _collect_dims(matmul: mtf.Operation) -> set[mtf.Dimension]:
    return {dim for tensor in matmul.inputs for dim in tensor.shape.dims}


def _count_flops(dims: set[mtf.Dimension]) -> float:
    """Returns the FLOPs of a matmul over these dimensions."""
    return 2.0 * mtf.Shape(list(dims)).size


def _count_flops_as_in_table_9(
    matmul: mtf.Operation, expert_tokens: Mapping[str, int]
) -> float:
    """Returns the FLOPs of a matmul, or 0 if Table 9 does not count it."""
    dims = _collect_dims(matmul)
    names = {dim.name for dim in dims}
    if "vocab" in names or not any(_is_weight(tensor) for tensor in matmul.inputs):
        return 0.0
    if not names & {"batch", dimensions.groups_unsplit(1).name}:
        return 0.0  # relative position biases: once for all sequences
    if dimensions.experts(1).name not in names:
        return _count_flops(dims)
    # Count the tokens that are sent to the experts, not the experts' capacity.
    capacity_dims = {dim for dim in dims if dim.name in _CAPACITY_DIMS}
    tokens = next(n for scope, n in expert_tokens.items() if matmul.name.startswith(scope))
    return _count_flops(dims - capacity_dims) * tokens


def _is_weight(tensor: mtf.Tensor) -> bool:
    operation = tensor.operation
    while type(operation).__name__ in _TRANSPARENT:
        operation = operation.inputs[0].operation
    return isinstance(operation, mtf.Variable)
