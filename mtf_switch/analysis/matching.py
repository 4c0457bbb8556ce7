"""Compares the experts of two models, whose numbers mean nothing across models.

Two experts are alike if the same tokens choose them. The experts of a layer of one model are
matched one to one with those of the other model so that as many tokens as possible go to
matched experts (the assignment problem; scipy's `linear_sum_assignment`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from mtf_switch.analysis import measures, null_models
from mtf_switch.analysis.null_models import Tested
from mtf_switch.analysis.routing_trace import RoutingTrace, segment_of
from mtf_switch.errors import UserError


@dataclasses.dataclass(frozen=True)
class Matching:
    """The experts of one layer of two models.

    Attributes:
      layer: Name of the layer.
      table: [E, E'] int, tokens by expert of the first and of the second model.
      partner: [min(E, E')] pairs: an expert of the first model, and its match in the second.
      agreement: Share of tokens that go to matched experts, beside its null model.
    """

    layer: str
    table: np.ndarray
    partner: list[tuple[int, int]]
    agreement: Tested


def match(table: np.ndarray) -> list[tuple[int, int]]:
    """Matches rows with columns so that the matched cells have the largest sum.

    Args:
      table: [E, E'] int.
    """
    rows, columns = linear_sum_assignment(table, maximize=True)
    return list(zip(rows.tolist(), columns.tolist()))


def measure_agreement(
    first: np.ndarray, second: np.ndarray, experts: int, others: int
) -> float:
    """Share of the tokens that go to matched experts: 1 for equal models up to permutation.

    Args:
      first: [tokens], the experts in the first model.
      second: [tokens], the experts in the second model.
      experts: E of the first model.
      others: E of the second model.
    """
    table = measures.count_pairs(first, second, others, experts)
    return sum(int(table[pair]) for pair in match(table)) / max(len(first), 1)


def compare_traces(
    one: RoutingTrace, other: RoutingTrace, draws: int = null_models.DRAWS
) -> list[Matching]:
    """Compares the last checkpoints of two traces of the same tokens.

    The null model permutes the tokens' experts in the second model, and matches again.

    Args:
      one: The trace of the first model.
      other: The trace of the second model.
      draws: The number of draws of the null model.

    Raises:
      UserError: If the traces are of other tokens, or their models have other layers.
    """
    check_comparable(one, other)
    rng = np.random.default_rng(0)
    return [_match_layer(layer, one, other, rng, draws) for layer in one.info.experts]


def _match_layer(
    layer: str, one: RoutingTrace, other: RoutingTrace, rng: np.random.Generator, draws: int
) -> Matching:
    experts, others = sizes = one.info.experts[layer], other.info.experts[layer]
    first = one.first_choice(one.info.steps[-1], layer)
    second = other.first_choice(other.info.steps[-1], layer)
    example = one.column(one.info.steps[-1], segment_of(layer), "example")
    table = measures.count_pairs(first, second, others, experts)
    drawn = [
        measure_agreement(first, null_models.permute(second, rng), *sizes) for _ in range(draws)
    ]
    interval = null_models.jackknife(
        lambda mask: measure_agreement(first[mask], second[mask], *sizes), example
    )
    value = measure_agreement(first, second, *sizes)
    agreement = null_models.compare(value, np.array(drawn), interval, "tokens")
    return Matching(layer, table, match(table), agreement)


def check_comparable(one: RoutingTrace, other: RoutingTrace) -> None:
    """Checks that two traces have the same tokens and layers.

    Raises:
      UserError: If they have not.
    """
    if list(one.info.experts) != list(other.info.experts):
        raise UserError(
            f"The models of {one.folder} and {other.folder} have different Switch layers: "
            f"{', '.join(one.info.experts)} and {', '.join(other.info.experts)}. Only layers "
            "of the same place can be compared."
        )
    if one.info.digest != other.info.digest:
        raise UserError(
            f"The traces {one.folder} ({_describe(one)}) and {other.folder} "
            f"({_describe(other)}) are of different tokens. Make both with the same --task, "
            "--split and --tokens, by models of one vocabulary and the same sequence lengths."
        )


def check_request(request: Mapping[str, Any], other: RoutingTrace) -> None:
    """Checks that a trace which is yet to be made can have the tokens of another one.

    Args:
      request: What the user asks for, see `TraceInfo.request`.
      other: The other trace.

    Raises:
      UserError: If it can not.
    """
    info = other.info
    different = [key for key in ("task", "split") if request[key] != info.request[key]]
    tokens, read = request["tokens"], sum(info.tokens.values())
    of_batch = info.batch_size * sum(info.lengths.values())
    ends_before = tokens + of_batch <= read
    goes_on = info.request["tokens"] <= read < tokens
    if ends_before or goes_on:
        different.append("tokens")
    if different:
        listed = " ".join(f"--{key}={info.request[key]}" for key in different)
        raise UserError(
            f"The trace {other.folder} ({_describe(other)}) would be of different tokens: it "
            f"was made with {listed}. Pass the same here, or make it again."
        )


def _describe(trace: RoutingTrace) -> str:
    request = trace.info.request
    counts = ", ".join(
        f"{count:,} in the {segment}" for segment, count in trace.info.tokens.items()
    )
    return f"{request['task']}, {request['split']}: {counts} tokens"
