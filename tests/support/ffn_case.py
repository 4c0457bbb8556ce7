"""A Switch feed-forward layer, its input, and its results by the loops of the oracle."""

from __future__ import annotations

import dataclasses
import math

import mesh_harness
import numpy as np
import oracle
from routing import DISPATCHES, STILL

from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.switch_ffn import SwitchFFN

RELU = ("relu",)
GATED = ("gelu", "linear")


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and its input.

    Attributes:
      dims: Names and sizes of the dimensions of x but for M.
      model, experts, hidden: M, E, F.
      group_size, factor, least: ExpertCapacity; the factor is that of every mode.
      activations: Activations of the experts.
      real: Share of positions that are not padding, a pattern by name, or None where padding
        is unknown.
      padding: How the loss treats it.
      skew: See oracle.tokens_with_clear_choices.
      mode: Mode of the Context.
      dispatch: A key of DISPATCHES.
    """

    dims: tuple[tuple[str, int], ...] = (("batch", 3), ("length", 4))
    model: int = 4
    experts: int = 3
    hidden: int = 5
    group_size: int | None = None
    factor: float = 1.0
    least: int = 1
    activations: tuple[str, ...] = RELU
    real: float | str | None = None
    padding: str = "masked"
    skew: float = 0.0
    mode: str = "train"
    dispatch: str = "sort"
    seed: int = 0

    @property
    def names(self):
        return tuple(name for name, _ in self.dims)

    @property
    def sizes(self):
        return tuple(size for _, size in self.dims)

    @property
    def tokens(self):
        """The number of tokens for one copy of the experts."""
        return math.prod(size for name, size in self.dims if name != "outer_batch")

    def layer(self):
        activation = self.activations[0] if len(self.activations) == 1 else self.activations
        dispatch, on_tpu = DISPATCHES[self.dispatch]
        layer = SwitchFFN(
            self.experts,
            self.hidden,
            activation,
            capacity=ExpertCapacity(self.factor, self.factor, self.least, self.group_size),
            router=SwitchRouter(exploration=STILL, padding=self.padding),
            dispatch=dispatch,
        )
        layer.set_target(on_tpu=on_tpu)
        return layer

    def draw(self):
        """Draws x, nonpadding (or None) and the weights."""
        rng = np.random.default_rng(self.seed)
        factors = len(self.activations)
        weights = oracle.Weights.draw(rng, self.model, self.experts, self.hidden, factors)
        x = oracle.tokens_with_clear_choices(
            rng, (*self.sizes, self.model), weights.w_r, skew=self.skew
        )
        shape = [n for name, n in self.dims if name in ("outer_batch", "batch", "length")]
        if self.real is None:
            return x, None, weights
        if self.real == "rows":
            nonpadding = np.ones(shape, int)
            nonpadding[1::2] = 0
        elif self.real == "ends":
            nonpadding = (np.arange(shape[-1]) < (shape[-1] + 1) // 2) * np.ones(shape, int)
        else:
            nonpadding = (rng.random(shape) < self.real).astype(int)
        return x, nonpadding, weights

    def grouped(self, array):
        """Reshapes [*dims, ...] to [G, S, ...]; copies of the experts are more groups."""
        size = self.tokens if self.group_size is None else min(self.group_size, self.tokens)
        if self.mode == "incremental":
            size = self.tokens
        if self.mode == "first_part":
            size = max(d for d in range(1, size + 1) if self.tokens % d == 0)
        return array.reshape(-1, size, *array.shape[len(self.dims) :])

    def expected(self, x, nonpadding, weights):
        if nonpadding is not None:
            for axis, name in enumerate(self.names):
                if name == "beam":
                    nonpadding = np.expand_dims(nonpadding, axis)
            nonpadding = self.grouped(np.broadcast_to(nonpadding, self.sizes))
        grouped = self.grouped(x)
        size = grouped.shape[1]
        # Equation 3; at least `least` slots, and no more than a group can fill.
        slots = min(size, max(int(size * self.factor / self.experts), self.least))
        return oracle.switch_layer(
            grouped,
            weights.w_r,
            weights.wi,
            weights.wo,
            capacity=size if self.mode == "incremental" else slots,
            activations=self.activations,
            nonpadding=nonpadding,
            padding=self.padding,
        )


def check_against_the_oracle(case):
    """Compares outputs, losses, routing and metrics; returns the outcome and the oracle's Layer."""
    x, nonpadding, weights = case.draw()
    outcome = mesh_harness.run_layer(
        case.layer,
        x,
        dims=case.names,
        nonpadding=nonpadding,
        mode=case.mode,
        variables=weights.variables(),
        differentiate=False,
    )
    expected = case.expected(x, nonpadding, weights)
    np.testing.assert_allclose(case.grouped(outcome.y), expected.y, rtol=1e-5, atol=1e-5)
    (loss,) = outcome.losses
    np.testing.assert_allclose(loss, expected.aux_loss, rtol=1e-5, atol=1e-7)
    shape = expected.routing.kept.shape
    routing = {name: value.reshape(shape) for name, value in outcome.routing.items()}
    np.testing.assert_array_equal(routing["kept"], expected.routing.kept)
    routed = expected.routing.expert_index >= 0
    for field in ("expert_index", "position_in_expert"):
        np.testing.assert_array_equal(
            routing[field][routed], getattr(expected.routing, field)[routed]
        )
    if case.mode != "incremental":
        (sums,) = outcome.metrics.values()
        np.testing.assert_allclose(sums, expected.sums, rtol=1e-5, atol=1e-5)
    else:
        assert not outcome.metrics
    # Exactly zero for dropped tokens and padding.
    np.testing.assert_array_equal(case.grouped(outcome.y)[~expected.routing.kept], 0.0)
    return outcome, expected
