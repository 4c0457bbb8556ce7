"""The results of a training step, by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

LOSS, LEARNING_RATE = "loss", "learning_rate"
GRADIENT_NORM, TARGET_SUMS = "gradient_norm", "target_sums"
# Before the name of a layer.
ROUTER_SUMS = "router_sums/"


def select_router_sums(results: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns layer -> sums over its tokens, [6 + 2 E]; see `router_metrics`."""
    names = (name for name in results if name.startswith(ROUTER_SUMS))
    return {name.removeprefix(ROUTER_SUMS): results[name] for name in names}
