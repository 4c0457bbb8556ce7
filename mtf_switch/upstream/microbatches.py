"""The repair of Mesh TensorFlow's microbatch loop: layers can send sums out of it.

A tensor that a layer makes inside the loop cannot be fetched by a session. A layer passes it
to `deliver_sum` instead, with a function that uses it.
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
      tensor: an mtf.Tensor without the batch dimension, of a training step that is being
        built.
      deliver: called with `tensor` at once if the step has no microbatches, and with the sum
        after the loop if it has. Operations that it makes are outside the loop.
    """
    deliveries = getattr(tensor.graph, _DELIVERIES, None)
    if deliveries is None:
        deliver(tensor)
    else:
        deliveries.append((tensor, deliver))


def return_sums_from_microbatches(mesh_tensorflow: types.ModuleType) -> None:
    """Makes `mtf.serialize_training_step` hand out what `deliver_sum` was given in its loop.

    The tensors join the outputs of the loop, which upstream sums over the microbatches.
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
