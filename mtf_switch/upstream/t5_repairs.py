"""The repair of T5 0.9.4: it imports without torch."""

from __future__ import annotations

import sys
import types
from typing import Any


def install_stand_in_for_torch_model() -> None:
    """Lets `t5.models` import without torch.

    The class HfPyTorchModel, which needs torch, is replaced by one that raises an ImportError
    with an explanation.
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
