"""Counts the parameters and the FLOPs of a training."""

from __future__ import annotations

import types
from collections.abc import Sequence

from mtf_switch.config import bound_settings, saved_config
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import kept_vocabulary


def measure(model_dir: str) -> dict[str, float]:
    """Counts parameters and FLOPs from the configuration of a run. Imports TensorFlow.

    Args:
      model_dir: The folder of the run, which keeps its vocabulary.

    Returns:
      The metrics "parameters" and "flops_per_token"; see `flops.Cost`.

    Raises:
      UserError: If the run keeps no vocabulary.
    """
    from mtf_switch.model import flops, switch_transformer

    saved_config.load(model_dir)
    settings = bound_settings.read_settings()
    kept = kept_vocabulary.find(model_dir)
    if kept is None:
        raise UserError(f"{model_dir} keeps no vocabulary, so its model cannot be counted.")
    built = switch_transformer.build(settings, types.SimpleNamespace(vocab_size=kept[1].size))
    cost = flops.compute_cost(built, settings)
    return {"parameters": cost.parameters, "flops_per_token": cost.flops_per_token}


def count_flops(gin_files: Sequence[str], gin_params: Sequence[str]) -> float:
    """Counts the forward FLOPs per token of a configuration. Imports TensorFlow.

    They do not depend on the vocabulary, so none is read.

    Args:
      gin_files: The gin files of a training.
      gin_params: Its bindings.
    """
    from mtf_switch.config import gin_config
    from mtf_switch.model import flops, switch_transformer

    gin_config.parse(gin_files, gin_params)
    settings = bound_settings.read_settings()
    built = switch_transformer.build(settings, types.SimpleNamespace(vocab_size=128))
    return flops.compute_cost(built, settings).flops_per_token
