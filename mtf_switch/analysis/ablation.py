"""Takes experts away, one at a time, to measure their importance.

An expert is taken away at one layer: the tokens that visit it pass the layer by its residual
connection, as dropped tokens do, and all others are routed as before. (The query experts of
SwitchAttention have no residual connection, so their tokens get a query of zeros.) No statistic
of routing predicts this loss, so it is measured.

The null model keeps the load: as many random tokens of the same batch pass the layer. An expert
whose loss does not differ from that is as important as any other expert of its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from mtf_switch.analysis import importance
from mtf_switch.analysis.importance import Importance
from mtf_switch.analysis.traced_model import BatchRouting, TracedModel
from mtf_switch.errors import UserError

# An interval over fewer examples would be a guess.
MIN_EXAMPLES = 16


def choose_batches(
    batches: Iterable[Mapping[str, np.ndarray]], tokens: int
) -> list[Mapping[str, np.ndarray]]:
    """Chooses the batches on which the importance of experts is to be measured.

    Args:
      batches: Batches of features, see `TracedModel.trace`.
      tokens: The number of tokens, of all features together, after which no further batch is
        read.

    Raises:
      UserError: If there are too few examples for an interval.
    """
    chosen, read = [], 0
    for features in batches:
        chosen.append(features)
        read += sum(np.count_nonzero(ids) for ids in features.values())
        if read >= tokens:
            break
    examples = sum(np.count_nonzero(_count_targets(features)) for features in chosen)
    if examples < MIN_EXAMPLES:
        raise UserError(
            f"The importance of the experts would be measured on {examples} examples, but an "
            f"interval needs at least {MIN_EXAMPLES}: raise --importance_tokens, choose a "
            "--split with more examples, or pass --no_importance."
        )
    return chosen


def _count_targets(features: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the number of target tokens of each example, [B] int."""
    return (features["targets"] > 0).sum(axis=1)


def measure_importance(
    model: TracedModel, batches: Sequence[Mapping[str, np.ndarray]], seed: int = 0
) -> list[Importance]:
    """Takes each expert of each layer away in turn.

    Args:
      model: The model, with a checkpoint restored.
      batches: What `choose_batches` chose.
      seed: Chooses the random tokens.

    Returns:
      A row for each expert, in order.
    """
    rng = np.random.default_rng(seed)
    sums: dict[tuple[str, int], list[np.ndarray]] = {}
    for number, features in enumerate(batches):
        routing = model.trace(features)
        cases = tqdm(
            [(layer, e) for layer, count in model.experts.items() for e in range(count)],
            desc=f"importance, batch {number + 1}/{len(batches)}",
            unit="expert",
            leave=False,
            disable=None,
        )
        for layer, expert in cases:
            found = _take_away(model, features, routing, layer, expert, rng)
            sums.setdefault((layer, expert), []).append(found)
    target_tokens = np.concatenate([_count_targets(features) for features in batches])
    arrays = {case: np.concatenate(values) for case, values in sums.items()}
    return importance.summarize(arrays, target_tokens)


def _take_away(
    model: TracedModel,
    features: Mapping[str, np.ndarray],
    routing: BatchRouting,
    layer: str,
    expert: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Measures the loss without an expert, and without random visits.

    Returns:
      [B, 4]: for each example the increase of its loss without the expert and without as many
      random visits, in nats, and the number of its visits to the expert and to all experts.
    """
    here = routing.layers[layer]
    made, of_expert = here.kept, here.kept & (here.expert == expert)  # [B, L, C]
    if made.shape[-1] != model.experts_per_token(layer):
        # The choices are alternatives, of which a token visits one.
        made, of_expert = (x.any(axis=-1, keepdims=True) for x in (made, of_expert))
    at_random = np.zeros_like(made)
    count = int(of_expert.sum())
    at_random.flat[rng.choice(np.flatnonzero(made), size=count, replace=False)] = True
    before = routing.loss.sum(axis=1)
    increases = [
        model.compute_loss(features, layer, mask).sum(axis=1) - before
        for mask in (of_expert, at_random)
    ]
    counts = [mask.sum(axis=(1, 2)) for mask in (of_expert, made)]
    return np.stack([*increases, *counts], axis=1).astype(np.float64)
