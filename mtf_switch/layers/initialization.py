"""One initialization scale for the whole model (Section 2.4 and Table 3 of the paper)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gin
import tensorflow.compat.v1 as tf

from mtf_switch import value_rules

_RULES = value_rules.declare(
    "init_scale", s=value_rules.number(above=0, advice="The paper uses 0.1, T5 uses 1.0.")
)


@gin.configurable
def init_scale(s: float = 1.0) -> float:
    """Returns the scale s. The initial deviation of every weight matrix is sqrt(s / fan_in).

    The paper's Switch models use 0.1, T5 uses 1.0. Embeddings, norms and position biases do not
    count as weight matrices, and keep T5's initial values.

    Args:
      s: The scale, from gin: `init_scale.s = 0.1`.

    Raises:
      UserError: If s is not above 0.
    """
    value_rules.check_all("init_scale", _RULES, {"s": s})
    return s


def is_weight_matrix(name: str, shape: Any) -> bool:
    """Whether a variable with this name and shape is a matrix that multiplies activations."""
    return len(shape) >= 2 and "embedding" not in name and "bias" not in name


def make_scaled_getter(s: float) -> Callable[..., tf.Variable]:
    """Returns a custom getter for `tf.variable_scope` that applies s to every weight matrix.

    Mesh TF initializes each matrix with the deviation sqrt(1 / fan_in). The fan-in of an expert
    is that of one expert's matrix. The query matrix of attention also has T5's factor
    1 / sqrt(d_kv). The getter multiplies the deviation by sqrt(s), and draws from a normal
    distribution truncated at two deviations, as in the paper (Mesh TF's attention does not
    truncate).

    Args:
      s: The scale, see `init_scale`.
    """

    # TensorFlow passes the next getter by the name `getter`.
    def get_scaled_variable(getter, name, *args, **kwargs):
        initializer = kwargs.get("initializer")
        stddev = getattr(initializer, "stddev", None)
        if stddev is not None and is_weight_matrix(name, kwargs["shape"]):
            kwargs["initializer"] = tf.truncated_normal_initializer(stddev=stddev * s**0.5)
        return getter(name, *args, **kwargs)

    return get_scaled_variable
