"""Layers of experts with any routing, as loops over each token's visits to experts.

Letters as in `mtf_switch.layers.dimensions`, see `oracle`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import oracle


@dataclasses.dataclass(frozen=True)
class Visit:
    """One token's visit to one expert, in a group."""

    token: int
    choice: int
    expert: int
    position: int
    kept: bool
    gate: float


def ranking(probs: np.ndarray, number: int) -> list[int]:
    """The experts of one token, the most probable first; ties go to the first expert."""
    return sorted(range(len(probs)), key=lambda e: (-probs[e], e))[:number]


def top_k_visits(
    probs: np.ndarray,
    real: np.ndarray,
    k: int,
    capacity: int,
    visits: Callable[[float], bool] = lambda gate: True,
) -> list[Visit]:
    """GShard's gating of one group: probs [S, E], real [S].

    First, each token visits its first choice in turn, then each token its second. Gates are
    shares of the k probabilities. Whether a token visits a later choice depends on its gate.
    """
    used = [0] * probs.shape[1]
    made = []
    for choice in range(k):
        for token in np.flatnonzero(real):
            best = ranking(probs[token], k)
            total = sum(probs[token, best]) if k > 1 else 1.0
            expert, gate = best[choice], probs[token, best[choice]] / total
            if choice and not visits(gate):
                continue
            kept = used[expert] < capacity
            made.append(Visit(token, choice, expert, used[expert], kept, gate))
            used[expert] += 1
    return made


def no_token_left_behind_visits(
    probs: np.ndarray, real: np.ndarray, stages: int, capacity: int
) -> list[Visit]:
    """Figure 11 for one group: probs [S, E], real [S]. At most one visit for each token."""
    served = [0] * probs.shape[1]
    waiting = list(np.flatnonzero(real))
    made = []
    for stage in range(stages):
        overflowing = []
        for token in waiting:
            expert = ranking(probs[token], stages)[stage]
            if served[expert] == capacity:
                overflowing.append(token)
                continue
            gate = probs[token, expert]
            made.append(Visit(token, stage, expert, served[expert], True, gate))
            served[expert] += 1
        waiting = overflowing
    return made


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Results of a layer of experts: y [G, S, M], losses, sums for metrics, visits by group."""

    y: np.ndarray
    aux_loss: float
    sums: np.ndarray
    visits: list[list[Visit]]


def mixture(
    x: np.ndarray,
    weights: oracle.Weights,
    route_group: Callable[[np.ndarray, np.ndarray], list[Visit]],
    *,
    activations: Sequence[str] = ("relu",),
    nonpadding: np.ndarray | None = None,
    padding: str = "masked",
    alpha: float = 0.01,
    z_coefficient: float = 0.0,
) -> Mixture:
    """A layer of experts with any routing: x [G, S, M].

    Args:
      x: Tokens in groups.
      weights: Weights of the layer.
      route_group: Makes the visits of a group from its probabilities [S, E] and whether each
        token is real [S].
      activations: Activations of the experts.
      nonpadding: [G, S] or None.
      padding: See `load_balance_loss`.
      alpha: Coefficient of the load-balancing loss.
      z_coefficient: Coefficient of the z-loss.
    """
    groups, tokens, _ = x.shape
    experts = weights.w_r.shape[1]
    real = np.ones((groups, tokens), bool) if nonpadding is None else nonpadding > 0
    logits = x @ weights.w_r
    probs = np.array(
        [[oracle.softmax(logits[g, s]) for s in range(tokens)] for g in range(groups)]
    )
    balance = alpha * oracle.load_balance_loss(probs, nonpadding, padding)
    z_loss = z_coefficient * oracle.router_z_loss(logits[real])
    visits = [route_group(probs[g], real[g]) for g in range(groups)]
    y = np.zeros((groups, tokens, weights.wo.shape[-1]))
    sums = np.zeros(6 + 2 * experts)
    for g in range(groups):
        served = set()
        for visit in (visit for visit in visits[g] if visit.kept):
            token, e = visit.token, visit.expert
            served.add(token)
            sums[6 + experts + visit.choice] += 1
            own = [kernel[e] for kernel in weights.wi]
            y[g, token] += visit.gate * oracle.expert(
                x[g, token], own, weights.wo[e], activations
            )
        for s in np.flatnonzero(real[g]):
            p = probs[g, s]
            sums[0] += 1
            sums[1] += s not in served
            sums[2] -= sum(p[i] * np.log(p[i]) for i in range(experts) if p[i] > 0)
            sums[3] += p.max()
            sums[6 + p.argmax()] += 1
    sums[4], sums[5] = balance * sums[0], z_loss * sums[0]
    return Mixture(y, balance + z_loss, sums, visits)
