"""Repairs T5 0.9.4, so that it can be imported without torch."""

from __future__ import annotations

import sys
import types
from typing import Any


def install_stand_in_for_torch_model() -> None:
    """Lets `t5.models` be imported without torch.

    A stand-in replaces the class HfPyTorchModel, which needs torch. It raises an ImportError
    that explains this.
    """

    class HfPyTorchModel:
        """Takes the place of T5's torch model."""

        def __init__(self, *_: Any, **__: Any):
            raise ImportError(
                "t5.models.HfPyTorchModel needs torch, which mtf_switch does not install."
            )

    module = types.ModuleType("t5.models.hf_model", HfPyTorchModel.__doc__)
    module.HfPyTorchModel = HfPyTorchModel
    sys.modules.setdefault("t5.models.hf_model", module)
