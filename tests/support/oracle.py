"""A second Switch layer, as the paper describes it: NumPy, plain loops, float64.

Letters as in `mtf_switch.layers.dimensions`: G groups, S tokens per group, M model, E experts,
C capacity, F hidden. Copies of the experts (O) are just more groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Routing:
    """The routing of each token: arrays [G, S], and the probabilities [G, S, E].

    Padding has no expert: its expert_index and position_in_expert are -1, its gate is 0.
    """

    expert_index: np.ndarray
    position_in_expert: np.ndarray
    kept: np.ndarray
    gate: np.ndarray
    probs: np.ndarray


@dataclasses.dataclass(frozen=True)
class Layer:
    """The results of the layer: y [G, S, M], the loss times alpha, and the metrics as sums."""

    y: np.ndarray
    aux_loss: float
    sums: np.ndarray
    routing: Routing


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the experts of one token."""
    exps = np.exp(logits - logits.max())
    return exps / exps.sum()


def route(
    x: np.ndarray, w_r: np.ndarray, capacity: int, nonpadding: np.ndarray | None = None
) -> Routing:
    """Equations 1 and 3: x [G, S, M] through the router w_r [M, E], C slots per expert."""
    groups, tokens, _ = x.shape
    experts = w_r.shape[1]
    expert_index = np.full((groups, tokens), -1)
    position_in_expert = np.full((groups, tokens), -1)
    kept = np.zeros((groups, tokens), bool)
    gate = np.zeros((groups, tokens))
    probs = np.zeros((groups, tokens, experts))
    for g in range(groups):
        chosen_so_far = [0] * experts
        for s in range(tokens):
            probs[g, s] = softmax(x[g, s] @ w_r)
            if nonpadding is not None and not nonpadding[g, s]:
                continue
            expert = int(np.argmax(probs[g, s]))
            expert_index[g, s] = expert
            gate[g, s] = probs[g, s, expert]
            position_in_expert[g, s] = chosen_so_far[expert]
            kept[g, s] = chosen_so_far[expert] < capacity
            chosen_so_far[expert] += 1
    return Routing(expert_index, position_in_expert, kept, gate, probs)


def load_balance_loss(
    probs: np.ndarray, nonpadding: np.ndarray | None = None, padding: str = "masked"
) -> float:
    """Equations 4 to 6 without alpha: E * sum_i f_i P_i per group, then the mean.

    "masked": f and P over the real tokens of a group; groups without any do not count.
    "upstream" (Mesh TF's moe.py): f over all positions, padding too; P over all positions,
    then times the share of real ones.
    """
    groups, tokens, experts = probs.shape
    losses = []
    for g in range(groups):
        real = [s for s in range(tokens) if nonpadding is None or nonpadding[g, s]]
        counted = real if padding == "masked" else range(tokens)
        if not counted:
            continue
        f = np.zeros(experts)
        p = np.zeros(experts)
        for s in counted:
            f[np.argmax(probs[g, s])] += 1 / len(counted)
            p += probs[g, s] / len(counted)
        share = len(real) / tokens if padding == "upstream" else 1.0
        losses.append(experts * sum(f * p) * share)
    return float(np.mean(losses)) if losses else 0.0


def figure_14_loss(probs: np.ndarray) -> float:
    """Appendix F's pseudo-code: mean over groups and experts of f * P, times E^2."""
    experts = probs.shape[-1]
    expert_mask = np.eye(experts)[probs.argmax(-1)]
    density_1, density_1_proxy = expert_mask.mean(1), probs.mean(1)
    return float(np.mean(density_1_proxy * density_1) * experts**2)


def activate(name: str, h: np.ndarray) -> np.ndarray:
    """Mesh TF's activations; its gelu is the one with tanh."""
    if name == "linear":
        return h
    if name == "relu":
        return np.maximum(h, 0.0)
    if name == "gelu":
        return h * 0.5 * (1.0 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    if name == "tanh":
        return np.tanh(h)
    sigmoid = 1.0 / (1.0 + np.exp(-h))
    if name in ("sigmoid", "swish"):
        return sigmoid if name == "sigmoid" else h * sigmoid
    raise ValueError(name)


def expert(
    x: np.ndarray, wi: Sequence[np.ndarray], wo: np.ndarray, activations: Sequence[str]
) -> np.ndarray:
    """One expert on one token: x [M], each of wi [M, F], wo [F, M]; without wi, wo [M, H]."""
    if not wi:
        return x @ wo
    hidden = np.ones(wo.shape[0])
    for name, kernel in zip(activations, wi):
        hidden = hidden * activate(name, x @ kernel)
    return hidden @ wo


def switch_layer(
    x: np.ndarray,
    w_r: np.ndarray,
    wi: Sequence[np.ndarray],
    wo: np.ndarray,
    *,
    capacity: int,
    activations: Sequence[str] = ("relu",),
    nonpadding: np.ndarray | None = None,
    padding: str = "masked",
    alpha: float = 0.01,
) -> Layer:
    """Figure 16: x [G, S, M]; w_r [M, E]; each of wi [E, M, F]; wo [E, F, M].

    A kept token's output is its gate times its expert's output (equation 2); that of a
    dropped token, or of padding, is zero.
    """
    groups, tokens, _ = x.shape
    routing = route(x, w_r, capacity, nonpadding)
    y = np.zeros_like(x)
    for g in range(groups):
        for s in range(tokens):
            if routing.kept[g, s]:
                e = routing.expert_index[g, s]
                own = [kernel[e] for kernel in wi]
                y[g, s] = routing.gate[g, s] * expert(x[g, s], own, wo[e], activations)
    aux_loss = alpha * load_balance_loss(routing.probs, nonpadding, padding)
    return Layer(y, aux_loss, router_sums(routing, aux_loss), routing)


def router_sums(routing: Routing, aux_loss: float, z_loss: float = 0.0) -> np.ndarray:
    """[6 + 2 E]: tokens, dropped, entropy in nats, gate, both losses * tokens, counts, served."""
    experts = routing.probs.shape[-1]
    sums = np.zeros(6 + 2 * experts)
    for g, s in np.argwhere(routing.expert_index >= 0):
        p = routing.probs[g, s]
        sums[0] += 1
        sums[1] += not routing.kept[g, s]
        sums[2] -= sum(p[i] * np.log(p[i]) for i in range(experts) if p[i] > 0)
        sums[3] += routing.gate[g, s]
        sums[6 + routing.expert_index[g, s]] += 1
        sums[6 + experts] += routing.kept[g, s]
    sums[4], sums[5] = aux_loss * sums[0], z_loss * sums[0]
    return sums


def central_differences(
    objective: Callable[[dict[str, np.ndarray]], float],
    point: dict[str, np.ndarray],
    step: float,
) -> dict[str, np.ndarray]:
    """The gradient of a function of named arrays, by moving each entry a step up and down."""
    gradients = {}
    for what, value in point.items():
        gradients[what] = np.zeros(value.shape)
        for index in np.ndindex(*value.shape):
            ends = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * step
                ends.append(objective({**point, what: moved}))
            gradients[what][index] = (ends[0] - ends[1]) / (2 * step)
    return gradients


@dataclasses.dataclass(frozen=True)
class Weights:
    """Kernels in float64: w_r [M, E], each of wi [E, M, F], wo [E, F, M]."""

    w_r: np.ndarray
    wi: tuple[np.ndarray, ...]
    wo: np.ndarray

    @classmethod
    def draw(cls, rng, model: int, experts: int, hidden: int, factors: int = 1) -> Weights:
        """Draws normal weights, scaled so that logits, hidden units and outputs are near 1.

        They are rounded to float32, so that the layer gets the very same numbers.
        """

        def normal(*shape):
            return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

        return cls(
            2 * normal(model, experts) / 2 ** round(np.log2(model) / 2),
            tuple(
                normal(experts, model, hidden) / 2 ** round(np.log2(model) / 2)
                for _ in range(factors)
            ),
            normal(experts, hidden, model) / 2 ** round(np.log2(hidden) / 2),
        )

    def variables(self) -> dict[str, np.ndarray]:
        """The weights by the names of the layer's variables."""
        names = ["wi"] if len(self.wi) == 1 else [f"wi_{i}" for i in range(len(self.wi))]
        kernels = dict(zip(names, self.wi), switch_gating=self.w_r, wo=self.wo)
        return {f"{name}/kernel": kernel for name, kernel in kernels.items()}


def router_z_loss(logits: np.ndarray) -> float:
    """ST-MoE's equation 5 over the logits [tokens, E] of real tokens."""
    squares = [np.log(np.sum(np.exp(h))) ** 2 for h in logits]
    return float(np.mean(squares)) if squares else 0.0


def tokens_with_clear_choices(
    rng,
    shape: Sequence[int],
    w_r: np.ndarray,
    margin: float = 1e-3,
    skew: float = 0.0,
    choices: int = 1,
) -> np.ndarray:
    """Draws normal x [..., M] whose largest logits differ by more than `margin`.

    The argmax and the next best experts, up to the number of choices, are then equal in float32
    and float64.

    Args:
      rng: np.random.Generator.
      shape: Shape of x.
      w_r: Router weights [M, E], whose choices must be clear.
      margin: Minimum difference of the largest logits; their float32 errors are about 1e-6.
      skew: From 0 (independent tokens) to 1 (equal tokens, which make experts overflow).
      choices: Number of choices of a token that must be clear, in order.
    """
    common = rng.standard_normal(shape[-1])
    x = np.empty(shape)
    for index in np.ndindex(*shape[:-1]):
        while True:
            token = skew * common + (1 - skew) * rng.standard_normal(shape[-1])
            token = token.astype(np.float32).astype(np.float64)
            largest = np.sort(token @ w_r)[-choices - 1 :]
            if np.all(np.diff(largest) > margin):
                break
        x[index] = token
    return x


def attention(q: np.ndarray, kv: np.ndarray, w_o: np.ndarray, visible: np.ndarray):
    """Attention of one sequence: q [L, heads, d], kv [L, heads, d] as keys and values, w_o.

    w_o is [heads, d, M]. Token i attends to the tokens j with visible [i, j]; q is scaled.
    """
    length, heads, _ = q.shape
    y = np.zeros((length, w_o.shape[-1]))
    for i in range(length):
        seen = np.flatnonzero(visible[i])
        for h in range(heads):
            weights = softmax(np.array([q[i, h] @ kv[j, h] for j in seen]))
            looked_at = sum(w * kv[j, h] for w, j in zip(weights, seen))
            y[i] += looked_at @ w_o[h]
    return y
