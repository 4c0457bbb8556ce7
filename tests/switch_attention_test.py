"""Switch attention: against the loops, dense attention, upstream's layer and itself.

Float32 sums of some tens of terms of the order of 1 and two softmaxes: 6e-8 leaves 1e-5 with
room to spare.
"""

from __future__ import annotations

import dataclasses
import functools
import types

import gin
import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
from mesh_layout_test import STRATEGIES
from mesh_tensorflow.transformer import attention, moe, transformer_layers

from mtf_switch import flops, model, run_config
from mtf_switch.capacity import ExpertCapacity
from mtf_switch.errors import UserError
from mtf_switch.exploration import Exploration
from mtf_switch.no_token_left_behind import NoTokenLeftBehindRouter
from mtf_switch.router import SwitchRouter
from mtf_switch.switch_attention import SwitchAttention
from mtf_switch.top_k_router import TopKRouter

BATCH, LENGTH, M, HEADS, D, E, F = 4, 6, 8, 2, 3, 4, 5
ARGMAX = Exploration("argmax")
ROUTERS = {
    "switch": SwitchRouter(exploration=ARGMAX),
    "top-2": TopKRouter(exploration=ARGMAX, k=2, policy_train="all"),
    "ntlb": NoTokenLeftBehindRouter(exploration=ARGMAX, stages=3),
}
# SwitchAttention.dispatch, and whether for a TPU.
DISPATCHES = {
    "einsum": ("einsum", False),
    "slots": ("gather", True),
    "sorted": ("gather", False),
}
PARTS = {"qkv": ("query", "key_value"), "q": ("query",), "kv": ("key_value",)}


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and its input: 4 sequences of 6 tokens, in groups of 12.

    Attributes:
      computation, network: of the SwitchAttention.
      router: a key of ROUTERS.
      dispatch: a key of DISPATCHES.
      real: share of positions that are no padding; None where padding is not known.
      causal: whether a token sees those before it alone.
      mode: of the Context.
      factor: of ExpertCapacity, in every mode: with 0.75, tokens are dropped.
      folded: whether 1 / sqrt(d_kv) is left to the initial values.
    """

    computation: str = "qkv"
    network: str = "linear"
    router: str = "switch"
    dispatch: str = "sorted"
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
            experts.on_tpu = on_tpu
        return layer

    def draw(self):
        """x [B, L, M], nonpadding [B, L] or None, and weights by variable."""
        rng = np.random.default_rng(self.seed)
        weights = {"o": rng.standard_normal((HEADS * D, M)) / 2}
        for part, name in (("query", "q"), ("key_value", "kv")):
            if part in PARTS[self.computation]:
                experts = oracle.Weights.draw(rng, M, E, F)
                last = F if self.network == "ffn" else M
                # Louder than usual, so that attention does not look at all alike.
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
        return _float32(x), nonpadding, tf.nest.map_structure(_float32, weights)

    def _routers(self, weights):
        """One of the two: whether the other's choices are clear, too, the tests tell."""
        return weights[PARTS[self.computation][0]].w_r

    def variables(self, weights):
        """By the names of the layer's variables."""
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
        """What the loops give: y [B, L, M], and the Mixture of each part."""
        grouped = x.reshape(-1, 12, M)
        real = None if nonpadding is None else nonpadding.reshape(-1, 12)
        capacity = max(int(12 * self.factor / E), 1)
        visits = {
            "switch": lambda p, r: oracle.top_k_visits(p, r, 1, capacity),
            "top-2": lambda p, r: oracle.top_k_visits(p, r, 2, capacity),
            "ntlb": lambda p, r: oracle.no_token_left_behind_visits(p, r, 3, capacity),
        }[self.router]
        mixtures = {
            part: oracle.mixture(grouped, weights[part], visits, nonpadding=real)
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
        """The layer on what was drawn; options as of mesh_harness.run_layer."""
        x, nonpadding, weights = self.draw()
        return mesh_harness.run_layer(
            self.layer,
            x,
            nonpadding=nonpadding,
            mode=self.mode,
            variables=self.variables(weights),
            **{"model": _fake_model(self.causal), "differentiate": False, **options},
        )


def _float32(array):
    """What float32 holds, in float64."""
    if isinstance(array, oracle.Weights):
        wi = tuple(_float32(kernel) for kernel in array.wi)
        return oracle.Weights(_float32(array.w_r), wi, _float32(array.wo))
    return array.astype(np.float32).astype(np.float64)


def _fake_model(causal=False, **layout):
    dim = mtf.Dimension("d_model", M)
    return mesh_harness.FakeModel(dim, fully_autoregressive=causal, **layout)


# ---- Appendix A, in loops

CASES = {
    "linear": Case(),
    "feed-forward": Case(network="ffn", dispatch="slots"),
    "queries alone": Case("q", dispatch="einsum", real=0.7),
    "keys and values alone": Case("kv", "ffn", dispatch="sorted", causal=True),
    "padding": Case(real=0.7, dispatch="slots"),
    "padding, feed-forward, evaluation": Case(
        network="ffn", real=0.7, dispatch="einsum", mode="eval"
    ),
    "causal": Case(causal=True, dispatch="einsum"),
    "scaled in the layer": Case(folded=False),
    "scaled in the layer, queries dense": Case("kv", folded=False),
    "top-2": Case(router="top-2"),
    "top-2, feed-forward, padding": Case(
        network="ffn", router="top-2", dispatch="slots", real=0.7
    ),
    "top-2, one-hot": Case(router="top-2", dispatch="einsum"),
    "ntlb": Case(router="ntlb"),
    "ntlb, padding": Case(router="ntlb", dispatch="einsum", real=0.7),
    "ntlb, by index": Case(router="ntlb", dispatch="slots"),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_loops_in_outputs_losses_and_metrics(name):
    case = CASES[name]
    outcome = case.run()
    x, nonpadding, weights = case.draw()
    y, mixtures = case.expected(x, nonpadding, weights)
    np.testing.assert_allclose(outcome.y, y, rtol=1e-5, atol=1e-5)
    assert np.abs(y).max() > 0.1
    losses = [mixture.aux_loss for mixture in mixtures.values()]
    np.testing.assert_allclose(outcome.losses, losses, rtol=1e-5)
    # Each set of experts has metrics of its own.
    layer = "encoder/block_000/layer_001"
    assert list(outcome.metrics) == [f"{layer}/{part}" for part in mixtures]
    for part, mixture in mixtures.items():
        sums = outcome.metrics[f"{layer}/{part}"]
        np.testing.assert_allclose(sums, mixture.sums, rtol=1e-5, atol=1e-5)
        if case.router == "switch":
            assert mixture.sums[1] > 0, "tokens are to be dropped"


# ---- gradients along random directions, against central differences of the loops

SMOOTH = {
    "linear, padding": Case(real=0.7, seed=1),
    "linear, slots": Case(dispatch="slots", causal=True, seed=2),
    "top-2, one-hot": Case(router="top-2", dispatch="einsum", seed=3),
    "queries alone, scaled": Case("q", folded=False, dispatch="sorted", seed=4),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_equal_finite_differences_of_the_loops(name):
    case = SMOOTH[name]
    x, nonpadding, weights = case.draw()
    rng = np.random.default_rng(0)
    dy = rng.standard_normal(x.shape)
    loss_weight = 100.0  # makes alpha 1
    outcome = case.run(dy=dy, loss_weight=loss_weight, differentiate=True)
    point = {"x": x, **case.variables(weights)}
    assert outcome.grads.keys() == point.keys()

    def objective(at):
        here = {n: v for n, v in at.items() if n in ("o", "q", "kv")}
        for part in PARTS[case.computation]:
            w_r, wo = at[f"{part}/switch_gating/kernel"], at[f"{part}/w/kernel"]
            here[part] = oracle.Weights(w_r, (), wo)
        y, mixtures = case.expected(at["x"], nonpadding, here)
        return np.sum(y * dy) + loss_weight * sum(m.aux_loss for m in mixtures.values())

    # In float64 a step of 1e-5 leaves 1e-10; margins of the routing are 1e-3.
    step = 1e-5
    for what, value in point.items():
        direction = rng.standard_normal(value.shape)
        ends = [objective({**point, what: value + s * direction}) for s in (step, -step)]
        slope = np.sum(outcome.grads[what] * direction)
        expected = (ends[0] - ends[1]) / (2 * step)
        # Sums of up to 192 terms of either sign, each to 1e-6 of the largest gradient.
        scale = np.abs(outcome.grads[what]).max() * np.sqrt(value.size)
        assert scale > 0.01, what
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-4 * scale, err_msg=what)


# ---- dense attention: what one expert is

DENSE = {
    "no bias": {},
    "bias, causal": {"relative_attention_type": "bias"},
    "shared bias": {"relative_attention_type": "bias_shared"},
    "contextual": {"relative_attention_type": "contextual"},
    "one head": {"num_heads": 1, "key_value_size": 6, "relative_attention_type": "bias"},
    "z-loss": {"z_loss_coeff": 0.1},
}


@pytest.mark.parametrize("name", DENSE)
def test_one_linear_expert_is_dense_attention_with_shared_keys_and_values(name):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, LENGTH, M))
    options = {"num_heads": HEADS, "key_value_size": D, **DENSE[name]}
    causal, nonpadding = "causal" in name, np.ones((BATCH, LENGTH), int)
    nonpadding[:, 4:] = 0
    run = functools.partial(
        mesh_harness.run_layer,
        x=x,
        nonpadding=nonpadding,
        model=_fake_model(causal),
        dy=rng.standard_normal(x.shape),
    )
    dense = run(lambda: transformer_layers.SelfAttention(shared_kv=True, **options))
    names = {"q": "query/w/kernel", "kv": "key_value/w/kernel"}
    values = {
        names.get(variable, variable): value[None] if variable in names else value
        for variable, value in dense.variables.items()
    }
    capacity = ExpertCapacity(1.0, 1.0)
    one = run(lambda: SwitchAttention(1, capacity=capacity, **options), variables=values)
    real = nonpadding[..., None]
    # Padding has zeros in the one, and what its embedding says in the other.
    np.testing.assert_allclose(one.y * real, dense.y * real, rtol=1e-5, atol=1e-5)
    assert np.abs(dense.y).max() > 0.1
    assert one.variables.keys() >= values.keys()


# ---- upstream's layer, the same variables


class Repaired(transformer_layers.ExpertsSelfAttention):
    """Upstream's layer, with keys and values that have the memory's positions.

    As it is, they keep those of the queries, and the dot product of query and key pairs each
    token with itself alone.
    """

    def make_params(self, context):
        params = super().make_params(context)
        compute_kv = params.compute_kv
        params.compute_kv = lambda memory: self.rename_length_to_memory_length(
            compute_kv(memory), context
        )
        return params


def upstream(layer, computation, factor=0.75):
    return layer(
        num_experts=E,
        hidden_size=F,
        group_size=12,
        capacity_factor_train=factor,
        capacity_factor_eval=factor,
        min_expert_capacity=1,
        switch_policy_train="argmax",
        switch_policy_eval="argmax",
        expert_computation=computation,
        shared_kv=True,
        num_heads=HEADS,
        key_value_size=D,
    )


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("computation", PARTS)
def test_equals_upstream_repaired_in_outputs_losses_and_all_gradients(computation, dispatch):
    """In "qkv" upstream has one router, and one hidden layer: here the two sets are made equal."""
    case = Case(computation, "ffn", dispatch=dispatch, folded=False, real=0.8)
    x, nonpadding, weights = case.draw()
    if computation == "qkv":
        query, key_value = weights["query"], weights["key_value"]
        weights["key_value"] = dataclasses.replace(key_value, w_r=query.w_r, wi=query.wi)
    ours = case.variables(weights)
    theirs = {}
    for name, value in ours.items():
        part, _, rest = name.partition("/")
        last = {"query": "q_wo/kernel", "key_value": "k_wo/kernel"}.get(part)
        theirs[last if rest == "wo/kernel" and computation == "qkv" else rest or name] = value
    run = functools.partial(
        mesh_harness.run_layer,
        x=x,
        nonpadding=nonpadding,
        dy=np.random.default_rng(1).standard_normal(x.shape),
        # Upstream's balance loss counts padding in another way: it has a test in switch_ffn.
        loss_weight=0.0,
    )
    one = run(case.layer, variables=ours)
    other = run(lambda: upstream(Repaired, computation), variables=theirs)
    np.testing.assert_allclose(one.y, other.y, rtol=1e-5, atol=1e-5)
    assert np.abs(one.y).max() > 0.1
    assert len(one.grads) == len(ours) + 1
    for name, grad in other.grads.items():
        # What upstream's two share has the gradients of both.
        alike = {"q_wo/kernel": "query/wo/kernel", "k_wo/kernel": "key_value/wo/kernel"}
        names = [n for n in one.grads if n == alike.get(name, name)] or [
            n for n in one.grads if n.partition("/")[2] == name
        ]
        scale = np.abs(grad).max()
        assert scale > 0.01, name
        np.testing.assert_allclose(
            sum(one.grads[n] for n in names), grad, rtol=1e-5, atol=2e-5 * scale, err_msg=name
        )


def test_upstream_unrepaired_looks_at_no_other_token_and_this_layer_does():
    """With room for all, what a token gets depends on others through attention alone."""
    case = Case("q", "ffn", factor=float(E), mode="eval")
    x, _, _ = case.draw()
    others = x.copy()
    others[:, 1:] = np.random.default_rng(1).standard_normal(others[:, 1:].shape)
    changes = {}
    for name, layer in {
        "upstream": lambda: upstream(transformer_layers.ExpertsSelfAttention, "q", float(E)),
        "repaired": lambda: upstream(Repaired, "q", float(E)),
        "ours": case.layer,
    }.items():
        first = [
            mesh_harness.run_layer(
                layer,
                tokens,
                nonpadding=np.ones(tokens.shape[:2], int),
                mode="eval",
                differentiate=False,
            ).y[:, 0]
            for tokens in (x, others)
        ]
        changes[name] = np.abs(first[0] - first[1]).max()
    assert changes["upstream"] == 0.0
    assert min(changes["repaired"], changes["ours"]) > 0.1


# ---- several devices

SPLIT = {"heads": 8, "experts": 8, "hidden": 8, "d": 2, "m": 8}


def split_layer(network, dispatch):
    return SwitchAttention(
        SPLIT["experts"],
        "qkv",
        network,
        SPLIT["hidden"],
        capacity=ExpertCapacity(1.0, 1.0, 1, 6),
        router=SwitchRouter(exploration=ARGMAX),
        dispatch=dispatch,
        num_heads=SPLIT["heads"],
        key_value_size=SPLIT["d"],
        relative_attention_type="bias",
    )


@pytest.fixture(scope="module")
def on_one_device():
    """network -> (x, nonpadding, dy, Outcome)."""
    results = {}
    for network in ("linear", "ffn"):
        rng = np.random.default_rng(0)
        w_r = rng.standard_normal((SPLIT["m"], SPLIT["experts"]))
        x = oracle.tokens_with_clear_choices(rng, (8, 6, SPLIT["m"]), w_r, skew=0.3)
        nonpadding = (rng.random((8, 6)) < 0.8).astype(int)
        dy = rng.standard_normal(x.shape)
        routers = {f"{part}/switch_gating/kernel": w_r for part in PARTS["qkv"]}
        outcome = mesh_harness.run_layer(
            lambda network=network: split_layer(network, "einsum"),
            x,
            nonpadding=nonpadding,
            dy=dy,
            loss_weight=100.0,
            variables=routers,
        )
        results[network] = x, nonpadding, dy, outcome
    return results


def layout_of(strategy):
    run_config.parse([f"layouts/{strategy}.gin"], ["MIXTURE_NAME = 'x'", "num_layers = 1"])
    layout = run_config.settings().layout
    gin.clear_config()  # of dropout, say
    return {"mesh_shape": layout.mesh_shape, "layout": layout.layout_rules}


@pytest.mark.parametrize(
    ("network", "dispatch"),
    [
        ("linear", "gather"),
        pytest.param("linear", "einsum", marks=pytest.mark.slow),
        pytest.param("ffn", "gather", marks=pytest.mark.slow),
        pytest.param("ffn", "einsum", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_what_one_device_gives(on_one_device, strategy, network, dispatch):
    x, nonpadding, dy, one = on_one_device[network]
    several = mesh_harness.run_layer(
        lambda: split_layer(network, dispatch),
        x,
        nonpadding=nonpadding,
        dy=dy,
        loss_weight=100.0,
        variables=one.variables,
        **layout_of(strategy),
    )
    np.testing.assert_allclose(several.y, one.y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(several.losses, one.losses, rtol=1e-5)
    for name, sums in one.metrics.items():
        np.testing.assert_allclose(several.metrics[name], sums, rtol=1e-5, err_msg=name)
    assert several.grads.keys() == one.grads.keys()
    for name, grad in one.grads.items():
        scale = np.abs(grad).max()
        assert scale > 0.001, name
        np.testing.assert_allclose(
            several.grads[name], grad, rtol=1e-5, atol=2e-5 * scale, err_msg=name
        )
    if strategy == "expert_model_data":
        # 4 x 2 cores: experts over the one, and heads (hidden units) over the other.
        variables = several.tf_graph.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES)
        slices = {v.op.name: v.shape.as_list() for v in variables}
        heads = SPLIT["heads"] * SPLIT["d"]
        kernel = {"linear": ("w", [2, 8, heads // 2]), "ffn": ("wo", [2, 4, heads])}[network]
        for part in PARTS["qkv"]:
            assert slices[f"{part}/{kernel[0]}/kernel_slice_0"] == kernel[1]
