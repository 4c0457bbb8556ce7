"""Measures the use of a model's experts on a task, to keep the best of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from mtf_switch.analysis.expert_use import Criterion, LayerUse
from mtf_switch.analysis.traced_model import BatchRouting, TracedModel
from mtf_switch.errors import UserError


def measure(batches: Iterable[BatchRouting], experts: Mapping[str, int]) -> dict[str, LayerUse]:
    """Measures the use of all experts.

    Args:
      batches: The routing of batches, traced with the norms of outputs.
      experts: Layer -> E.

    Returns:
      Layer -> the use of its experts, in the order of `experts`. Where a token visits several
      of them, `norms` has the norm of their sum.
    """
    tokens = dict.fromkeys(experts, 0)
    sums = {layer: np.zeros([4, count]) for layer, count in experts.items()}
    for batch in batches:
        for layer, count in experts.items():
            routing = batch.layers[layer]
            real = routing.nonpadding
            expert, kept = routing.expert[real], routing.kept[real]  # [tokens, C]
            norm = np.broadcast_to(routing.output_norm[real][:, np.newaxis], kept.shape)
            first, visited = expert[:, 0], expert[kept]
            tokens[layer] += int(real.sum())
            found = (
                *((first, None), (first, routing.gate[real][:, 0])),
                *((visited, None), (visited, norm[kept])),
            )
            for row, (chosen, weights) in enumerate(found):
                sums[layer][row] += np.bincount(chosen, weights, minlength=count)
    return {layer: LayerUse(tokens[layer], *sums[layer]) for layer in experts}


def count_tokens(batch: BatchRouting) -> int:
    """Returns the tokens that the stacks with Switch layers read in a batch."""
    stacks = {layer.split("/")[0]: routing for layer, routing in batch.layers.items()}
    return sum(int(routing.nonpadding.sum()) for routing in stacks.values())


def check_can_prune(model: TracedModel, count: int, criterion: Criterion) -> None:
    """Checks that a model can keep `count` experts of each layer.

    Raises:
      UserError: If it cannot.
    """
    for layer, experts in model.experts.items():
        if count >= experts:
            raise UserError(
                f"--experts={count} experts cannot be kept: {layer} has {experts}. Keep fewer."
            )
        choices = model.choices_per_token(layer)
        if 1 < count < choices:
            raise UserError(
                f"--experts={count} experts are too few for the router of {layer}, by which a "
                f"token chooses among {choices}: keep at least {choices}, or 1."
            )
        if criterion == "output_norm" and model.experts_per_token(layer) > 1:
            raise UserError(
                f"--rank=output_norm needs one expert for each token, but in {layer} a token "
                f"visits {model.experts_per_token(layer)}: use --rank=share or gate_hits."
            )
