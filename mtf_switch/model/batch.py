"""The dimensions of a batch, and its microbatches."""

from __future__ import annotations

import mesh_tensorflow as mtf
from mesh_tensorflow.transformer import utils

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.layers import dimensions


def batch_dimensions(settings: RunSettings) -> list[mtf.Dimension]:
    """Returns the dimensions of a batch of training or evaluation: [O, B], or [B]."""
    outer = settings.outer_batch_size
    if not outer:
        return [mtf.Dimension("batch", settings.batch_size)]
    return [
        dimensions.outer_batch(outer),
        mtf.Dimension("batch", settings.batch_size // outer),
    ]


def count_microbatches(settings: RunSettings) -> int:
    """Returns the number of microbatches that a training step runs in turn."""
    return utils.serialize_num_microbatches(
        batch_dimensions(settings)[-1],
        settings.sequence_length,
        settings.mesh_shape,
        settings.layout_rules,
    )
