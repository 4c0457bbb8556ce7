"""Repairs Mesh TensorFlow's microbatch loop, so that layers can send sums out of it.

A session cannot fetch a tensor that a layer makes inside the loop. The layer passes the tensor
to `deliver_sum` instead, with a function that uses its sum.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

# The attribute of a mtf.Graph that collects the deliveries of a microbatch.
_DELIVERIES = "_mtf_switch_deliveries"


def deliver_sum(tensor: Any, deliver: Callable[[Any], object]) -> None:
    """Calls `deliver` with a tensor, or with its sum over all microbatches.

    Args:
      tensor: An mtf.Tensor without the batch dimension, in a training step that is being
        built.
      deliver: A function that is called with `tensor` at once if the step has no microbatches,
        and otherwise with the sum after the loop. The operations that it makes are outside the
        loop.
    """
    deliveries = getattr(tensor.graph, _DELIVERIES, None)
    if deliveries is None:
        deliver(tensor)
    else:
        deliveries.append((tensor, deliver))


def return_sums_from_microbatches(mesh_tensorflow: types.ModuleType) -> None:
    """Makes `mtf.serialize_training_step` return the tensors that `deliver_sum` received.

    They join the outputs of the loop, which upstream sums over the microbatches.
    """
    original = mesh_tensorflow.serialize_training_step

    def serialize_training_step(features, model_fn, batch_dim, num_splits):
        graph = next(iter(features.values())).graph
        functions = {}

        def model_fn_with_deliveries(microbatch):
            setattr(graph, _DELIVERIES, [])
            outputs = model_fn(microbatch)
            sums = {}
            for number, (tensor, deliver) in enumerate(graph.__dict__.pop(_DELIVERIES)):
                key = (_DELIVERIES, number)
                sums[key], functions[key] = tensor, deliver
            return {**outputs, **sums}

        grads, outputs = original(features, model_fn_with_deliveries, batch_dim, num_splits)
        for key, deliver in functions.items():
            deliver(outputs.pop(key))
        return grads, outputs

    mesh_tensorflow.serialize_training_step = serialize_training_step
