"""Importance of each expert: the loss without it, beside the loss without random tokens.

`ablation` measures both. `FILE` beside a trace keeps the result for later analyses of it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from mtf_switch import whole_file
from mtf_switch.analysis import null_models
from mtf_switch.analysis.routing_trace import RoutingTrace, TraceInfo
from mtf_switch.errors import UserError, name_program

FILE = "importance.json"


@dataclasses.dataclass(frozen=True)
class Importance:
    """The importance of one expert.

    Attributes:
      layer: Name of the layer.
      expert: Number of the expert.
      load: Share of the tokens that visit it.
      loss: Increase of the loss without it, in nats per target token.
      low: Lower end of the 95% interval of `loss` over examples.
      high: Upper end.
      random: Increase of the loss if as many random tokens pass the layer.
      p_value: Of a paired t-test over examples that `loss` and `random` are equal.
      q_value: The p-value, adjusted over all experts (Benjamini-Hochberg).
    """

    layer: str
    expert: int
    load: float
    loss: float
    low: float
    high: float
    random: float
    p_value: float
    q_value: float = np.nan


def summarize(
    found: Mapping[tuple[str, int], np.ndarray], target_tokens: np.ndarray
) -> list[Importance]:
    """Summarizes over examples what `ablation` measured.

    Args:
      found: (layer, expert) -> [examples, 4]: the increase of an example's loss without the
        expert, that without as many random visits, in nats, and the number of its visits to the
        expert and to all experts.
      target_tokens: [examples], the number of target tokens of each.
    """
    rows = [
        _summarize_expert(layer, expert, values, target_tokens)
        for (layer, expert), values in found.items()
    ]
    q_values = null_models.adjust(np.array([row.p_value for row in rows]))
    return [dataclasses.replace(row, q_value=float(q)) for row, q in zip(rows, q_values)]


def _summarize_expert(
    layer: str, expert: int, found: np.ndarray, target_tokens: np.ndarray
) -> Importance:
    """Divides sums over examples; see `summarize`."""
    without, at_random, visits, all_visits = found.T
    loss, margin, _ = _divide(without, target_tokens)
    _, _, p_value = _divide(without - at_random, target_tokens)
    return Importance(
        layer=layer,
        expert=expert,
        load=visits.sum() / max(all_visits.sum(), 1.0),
        loss=loss,
        low=loss - margin,
        high=loss + margin,
        random=at_random.sum() / target_tokens.sum(),
        p_value=p_value,
    )


def _divide(values: np.ndarray, tokens: np.ndarray) -> tuple[float, float, float]:
    """Returns the ratio of two sums over examples, with its uncertainty.

    Args:
      values: [examples], in nats.
      tokens: [examples], the target tokens.

    Returns:
      The ratio, half of its 95% interval, and the p-value of a ratio of 0: Student's t of the
      linearized ratio (Cochran, Sampling Techniques, 1977, Section 6.4).
    """
    used = tokens > 0
    values, tokens = values[used], tokens[used]
    examples = len(values)
    ratio = values.sum() / tokens.sum()
    residuals = values - ratio * tokens
    variance = examples / (examples - 1) * np.sum(residuals**2)
    error = np.sqrt(variance) / tokens.sum()
    if not error:
        return float(ratio), 0.0, 1.0 if not ratio else 0.0
    margin = stats.t.ppf(0.975, examples - 1) * error
    return float(ratio), float(margin), float(2 * stats.t.sf(abs(ratio / error), examples - 1))


@dataclasses.dataclass(frozen=True)
class Measured:
    """The importance of all experts of a trace.

    Attributes:
      tokens: The number of tokens that was asked for.
      rows: A row for each expert.
    """

    tokens: int
    rows: Sequence[Importance]


def write(trace: RoutingTrace, measured: Measured) -> None:
    """Writes the importance of the experts at the last checkpoint of a trace beside it."""
    content = {"of": _identify(trace.info), **dataclasses.asdict(measured)}
    text = json.dumps(content, indent=1) + "\n"
    whole_file.write_text(os.path.join(trace.folder, FILE), text)


def read(trace: RoutingTrace) -> Measured | None:
    """Reads what `write` wrote; None if it was not measured, or for another trace.

    Raises:
      UserError: If it cannot be read.
    """
    path = os.path.join(trace.folder, FILE)
    if not os.path.isfile(path):
        return None
    try:
        content = json.loads(whole_file.read_text(path))
        if content["of"] != _identify(trace.info):
            return None
        return Measured(content["tokens"], [Importance(**row) for row in content["rows"]])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Remove it, or measure the importance of the "
            f"experts again with {name_program()} experts --overwrite."
        ) from error


def _identify(info: TraceInfo) -> dict[str, Any]:
    """Returns what differs between traces whose experts may have another importance."""
    weights = info.weights[info.steps[-1]]
    return {"weights": weights, "request": info.request, "digest": info.digest}
