"""A Switch attention layer, its input, and its results by the loops of the oracle."""

from __future__ import annotations

import dataclasses

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import oracle
import tensorflow.compat.v1 as tf
import visits_oracle
from routing import DISPATCHES, STILL

from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.no_token_left_behind import NoTokenLeftBehindRouter
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.switch_attention import SwitchAttention
from mtf_switch.layers.top_k_router import TopKRouter

BATCH, LENGTH, M, HEADS, D, E, F = 4, 6, 8, 2, 3, 4, 5
ROUTERS = {
    "switch": SwitchRouter(exploration=STILL),
    "top-2": TopKRouter(exploration=STILL, k=2, policy_train="all"),
    "ntlb": NoTokenLeftBehindRouter(exploration=STILL, stages=3),
}
PARTS = {"qkv": ("query", "key_value"), "q": ("query",), "kv": ("key_value",)}


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and its input: 4 sequences of 6 tokens, in groups of 12.

    Attributes:
      computation, network: Arguments of SwitchAttention.
      router: A key of ROUTERS.
      dispatch: A key of DISPATCHES.
      real: Share of positions that are not padding; None if padding is unknown.
      causal: Whether a token attends to earlier tokens only.
      mode: Mode of the Context.
      factor: Capacity factor of every mode; with 0.75, tokens are dropped.
      folded: Whether 1 / sqrt(d_kv) is part of the initial values.
    """

    computation: str = "qkv"
    network: str = "linear"
    router: str = "switch"
    dispatch: str = "sort"
    real: float | None = None
    causal: bool = False
    mode: str = "train"
    factor: float = 0.75
    folded: bool = True
    seed: int = 0

    def layer(self):
        dispatch, on_tpu = DISPATCHES[self.dispatch]
        layer = SwitchAttention(
            E,
            self.computation,
            self.network,
            F,
            capacity=ExpertCapacity(self.factor, self.factor, 1, 12),
            router=ROUTERS[self.router],
            dispatch=dispatch,
            num_heads=HEADS,
            key_value_size=D,
            fold_scaling_into_initializer=self.folded,
        )
        for experts in layer.switch_layers:
            experts.set_target(on_tpu=on_tpu)
        return layer

    def draw(self):
        """Draws x [B, L, M], nonpadding [B, L] or None, and weights by variable."""
        rng = np.random.default_rng(self.seed)
        weights = {"o": rng.standard_normal((HEADS * D, M)) / 2}
        for part, name in (("query", "q"), ("key_value", "kv")):
            if part in PARTS[self.computation]:
                experts = oracle.Weights.draw(rng, M, E, F)
                last = F if self.network == "ffn" else M
                # Larger than the default, so that attention is far from uniform.
                wo = rng.standard_normal((E, last, HEADS * D))
                wi = experts.wi if self.network == "ffn" else ()
                weights[part] = dataclasses.replace(experts, wi=wi, wo=wo)
            else:
                weights[name] = rng.standard_normal((M, HEADS * D)) / 2
        x = oracle.tokens_with_clear_choices(
            rng, (BATCH, LENGTH, M), self._routers(weights), skew=0.6, choices=3
        )
        nonpadding = None
        if self.real is not None:
            nonpadding = (rng.random((BATCH, LENGTH)) < self.real).astype(int)
        return round_to_float32(x), nonpadding, tf.nest.map_structure(round_to_float32, weights)

    def _routers(self, weights):
        """Returns the first set's router. Tests check that the other's choices are clear, too."""
        return weights[PARTS[self.computation][0]].w_r

    def variables(self, weights):
        """The weights by the names of the layer's variables."""
        values = {}
        for name, value in weights.items():
            if isinstance(value, np.ndarray):
                values[name] = value
                continue
            last = "wo" if self.network == "ffn" else "w"
            values[f"{name}/switch_gating/kernel"] = value.w_r
            values[f"{name}/{last}/kernel"] = value.wo
            values.update({f"{name}/wi/kernel": kernel for kernel in value.wi})
        return values

    def expected(self, x, nonpadding, weights):
        """The results of the loops: y [B, L, M], and the Mixture of each part."""
        grouped = x.reshape(-1, 12, M)
        real = None if nonpadding is None else nonpadding.reshape(-1, 12)
        capacity = max(int(12 * self.factor / E), 1)
        visits = {
            "switch": lambda p, r: visits_oracle.top_k_visits(p, r, 1, capacity),
            "top-2": lambda p, r: visits_oracle.top_k_visits(p, r, 2, capacity),
            "ntlb": lambda p, r: visits_oracle.no_token_left_behind_visits(p, r, 3, capacity),
        }[self.router]
        mixtures = {
            part: visits_oracle.mixture(grouped, weights[part], visits, nonpadding=real)
            for part in PARTS[self.computation]
        }

        def projected(part, name):
            y = mixtures[part].y if part in mixtures else x @ weights[name]
            return y.reshape(BATCH, LENGTH, HEADS, D)

        q, kv = projected("query", "q"), projected("key_value", "kv")
        if not self.folded:
            q = q / np.sqrt(D)
        visible = np.ones((BATCH, LENGTH, LENGTH), bool)
        if nonpadding is not None:
            visible &= nonpadding[:, :, None] == nonpadding[:, None, :]
        if self.causal:
            visible &= np.tri(LENGTH, dtype=bool)
        w_o = weights["o"].reshape(HEADS, D, M)
        y = np.stack([oracle.attention(*of, w_o, seen) for *of, seen in zip(q, kv, visible)])
        return y, mixtures

    def run(self, **options):
        """Runs the layer on the drawn input, with options of mesh_harness.run_layer."""
        x, nonpadding, weights = self.draw()
        return mesh_harness.run_layer(
            self.layer,
            x,
            nonpadding=nonpadding,
            mode=self.mode,
            variables=self.variables(weights),
            **{"model": make_fake_model(self.causal), "differentiate": False, **options},
        )


def round_to_float32(array):
    """Rounds a float64 array to the nearest float32 numbers."""
    if isinstance(array, oracle.Weights):
        wi = tuple(round_to_float32(kernel) for kernel in array.wi)
        return oracle.Weights(round_to_float32(array.w_r), wi, round_to_float32(array.wo))
    return array.astype(np.float32).astype(np.float64)


def make_fake_model(causal=False, **layout):
    dim = mtf.Dimension("d_model", M)
    return mesh_harness.FakeModel(dim, fully_autoregressive=causal, **layout)


def check_against_the_loops(case):
    """Compares outputs, losses and metrics; returns y and the Mixture of each part."""
    outcome = case.run()
    x, nonpadding, weights = case.draw()
    y, mixtures = case.expected(x, nonpadding, weights)
    np.testing.assert_allclose(outcome.y, y, rtol=1e-5, atol=1e-5)
    losses = [mixture.aux_loss for mixture in mixtures.values()]
    np.testing.assert_allclose(outcome.losses, losses, rtol=1e-5, atol=1e-7)
    # Each set of experts has metrics of its own.
    layer = "encoder/block_000/layer_001"
    assert list(outcome.metrics) == [f"{layer}/{part}" for part in mixtures]
    for part, mixture in mixtures.items():
        sums = outcome.metrics[f"{layer}/{part}"]
        np.testing.assert_allclose(sums, mixture.sums, rtol=1e-5, atol=1e-5)
    return y, mixtures
