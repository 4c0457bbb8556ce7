"""The classes that read and write each checkpoint format.

They are imported on first use, because TensorFlow, tensorstore and flax take seconds each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mtf_switch.conversion.architecture import Architecture
from mtf_switch.conversion.protocols import Source, Target
from mtf_switch.conversion.tensor_names import HF, MTF, T5X, Format


class FormatClasses(NamedTuple):
    """The two classes of a format.

    Attributes:
      source: Opens the checkpoint at a path.
      target: Begins a checkpoint. Its arguments are an empty folder, the architecture, the
        dtype of all tensors, and the training step.
    """

    source: Callable[[str], Source]
    target: Callable[[str, Architecture, np.dtype, int], Target]


def load_classes(format: Format) -> FormatClasses:
    """Imports and returns the classes of a format."""
    return _LOADERS[format]()


def _load_hf() -> FormatClasses:
    from mtf_switch.conversion.hf_checkpoint import HfSource, HfTarget

    return FormatClasses(HfSource, HfTarget)


def _load_t5x() -> FormatClasses:
    from mtf_switch.conversion.t5x_checkpoint import T5xSource, T5xTarget

    return FormatClasses(T5xSource, T5xTarget)


def _load_mtf() -> FormatClasses:
    from mtf_switch.conversion.mtf_checkpoint import MtfSource, MtfTarget

    return FormatClasses(MtfSource, MtfTarget)


_LOADERS: Mapping[Format, Callable[[], FormatClasses]] = {
    HF: _load_hf,
    T5X: _load_t5x,
    MTF: _load_mtf,
}
