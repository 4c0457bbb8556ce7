"""Sums that layers record while a model is called, and that a step returns beside its loss.

Mesh TensorFlow's layers return activations only. A layer records a further result here, in the
Mesh TF graph that is being built, and the caller of the model takes it. In a step with
microbatches, the caller is inside the loop, and lets the loop add the sums up with the loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mesh_tensorflow as mtf

# The attribute of a mtf.Graph that holds the recorded sums by name.
_ATTRIBUTE = "_mtf_switch_recorded_sums"


def record(name: str, sums: mtf.Tensor) -> None:
    """Records sums over the tokens of a batch.

    Args:
      name: The name under which the caller of the model finds them.
      sums: A tensor without a batch dimension, so that microbatches add up.
    """
    vars(sums.graph).setdefault(_ATTRIBUTE, {})[name] = sums


def take(graph: mtf.Graph) -> dict[str, mtf.Tensor]:
    """Removes the sums that are recorded in a graph, and returns them by name, in order."""
    return vars(graph).pop(_ATTRIBUTE, {})


@contextlib.contextmanager
def set_aside(graph: mtf.Graph) -> Iterator[None]:
    """Keeps the recorded sums of a graph, and drops those that the context records.

    A second model, such as a teacher, has layers of the same names.
    """
    kept = take(graph)
    try:
        yield
    finally:
        take(graph)
        vars(graph)[_ATTRIBUTE] = kept
