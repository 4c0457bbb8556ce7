"""Takes experts away, one at a time, to measure their importance.

An expert is taken away at one layer: the tokens that visit it pass the layer by its residual
connection, as dropped tokens do, and all others are routed as before. (The query experts of
SwitchAttention have no residual connection, so their tokens get a query of zeros.) No statistic
of routing predicts this loss, so it is measured.

The null model keeps the load: as many random tokens of the same batch pass the layer. An expert
whose loss does not differ from that is as important as any other expert of its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from tqdm import tqdm

from mtf_switch.analysis import importance
from mtf_switch.analysis.importance import Importance
from mtf_switch.analysis.traced_model import BatchRouting, TracedModel
from mtf_switch.errors import UserError

# An interval over fewer examples would be a guess.
MIN_EXAMPLES = 16


def measure_importance(
    model: TracedModel,
    batches: Iterable[Mapping[str, np.ndarray]],
    tokens: int,
    seed: int = 0,
) -> list[Importance]:
    """Takes each expert of each layer away in turn.

    Args:
      model: The model, with a checkpoint restored.
      batches: Batches of features, see `TracedModel.trace`.
      tokens: The number of tokens, of all features together, after which no further batch is
        read.
      seed: Chooses the random tokens.

    Returns:
      A row for each expert, in order.

    Raises:
      UserError: If there are too few examples for an interval.
    """
    rng = np.random.default_rng(seed)
    sums: dict[tuple[str, int], list[np.ndarray]] = {}
    target_counts: list[np.ndarray] = []
    read = 0
    for number, features in enumerate(batches):
        routing = model.trace(features)
        target_counts.append((features["targets"] > 0).sum(axis=1))
        cases = tqdm(
            [(layer, e) for layer, count in model.experts.items() for e in range(count)],
            desc=f"importance, batch {number + 1}",
            unit="expert",
            leave=False,
            disable=None,
        )
        for layer, expert in cases:
            found = _take_away(model, features, routing, layer, expert, rng)
            sums.setdefault((layer, expert), []).append(found)
        read += sum(np.count_nonzero(ids) for ids in features.values())
        if read >= tokens:
            break
    target_tokens = np.concatenate(target_counts)
    examples = np.count_nonzero(target_tokens)
    if examples < MIN_EXAMPLES:
        raise UserError(
            f"The importance of the experts was measured on {examples} examples, but an "
            f"interval needs at least {MIN_EXAMPLES}: raise --importance_tokens, choose a "
            "--split with more examples, or pass --no_importance."
        )
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
