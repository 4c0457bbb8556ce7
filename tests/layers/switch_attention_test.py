"""Switch attention: against the loops, dense attention, upstream's layer and itself.

Float32 sums of some tens of terms of the order of 1 and two softmaxes: 6e-8 leaves 1e-5 with
room to spare.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types

import gin
import hypothesis
import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
from first_step import QUIET, run_first_step
from hypothesis import strategies as st
from mesh_tensorflow.transformer import transformer_layers, utils
from packed_examples import NO_DROP, run_packed_and_alone
from strategies import STRATEGIES
from tiny_run import EOS_ID, INPUTS, TARGETS, log_likelihoods

from mtf_switch.config import gin_config, run_settings
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.no_token_left_behind import NoTokenLeftBehindRouter
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.switch_attention import SwitchAttention
from mtf_switch.layers.top_k_router import TopKRouter
from mtf_switch.model import flops, switch_transformer
from mtf_switch.planning import planner
from mtf_switch.runs import train_log

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
            experts.set_target(on_tpu=on_tpu)
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


def check_against_the_loops(case):
    """Outputs, losses and metrics; returns the Mixture of each part."""
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


@pytest.mark.parametrize("name", CASES)
def test_equals_the_loops_in_outputs_losses_and_metrics(name):
    y, mixtures = check_against_the_loops(CASES[name])
    assert np.abs(y).max() > 0.1
    if CASES[name].router == "switch":
        assert all(mixture.sums[1] > 0 for mixture in mixtures.values()), "tokens are dropped"


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    st.builds(
        Case,
        computation=st.sampled_from(list(PARTS)),
        network=st.sampled_from(["linear", "ffn"]),
        router=st.sampled_from(list(ROUTERS)),
        dispatch=st.sampled_from(list(DISPATCHES)),
        real=st.sampled_from([None, 0.0, 0.5, 0.9]),
        causal=st.booleans(),
        mode=st.sampled_from(["train", "eval"]),
        factor=st.sampled_from([0.5, 1.0, 2.0]),
        folded=st.booleans(),
        seed=st.integers(0, 999),
    )
)
def test_equals_the_loops_whatever_the_case(case):
    x, _, weights = case.draw()
    for part in PARTS[case.computation]:
        logits = np.sort(x @ weights[part].w_r)
        # Float32 ranks the experts as float64 does.
        hypothesis.assume(np.diff(logits[..., -4:]).min() > 1e-4)
    check_against_the_loops(case)


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
    gin_config.parse([f"layouts/{strategy}.gin"], ["MIXTURE_NAME = 'x'", "num_layers = 1"])
    layout = run_settings.from_gin().layout
    gin.clear_config()  # of dropout, say
    return {"mesh_shape": layout.mesh_shape, "layout": layout.layout_rules}


def _on_8_devices():
    """All of STRATEGIES, networks and dispatches; the fast ones split heads, and heads and experts."""
    for strategy in STRATEGIES:
        for network in ("linear", "ffn"):
            for dispatch in ("gather", "einsum"):
                fast = (network, dispatch) == ("linear", "gather")
                fast &= strategy in ("model", "expert_model_data")
                marks = () if fast else pytest.mark.slow
                yield pytest.param(strategy, network, dispatch, marks=marks)


@pytest.mark.parametrize(("strategy", "network", "dispatch"), _on_8_devices())
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


# ---- bfloat16


@pytest.mark.parametrize("network", ["linear", "ffn"])
@pytest.mark.parametrize("dispatch", ["einsum", "slots"])
def test_what_crosses_cores_is_bfloat16_and_the_routers_are_float32(network, dispatch):
    case = Case(network=network, dispatch=dispatch, factor=float(E))
    low, full = (case.run(activation_dtype=d) for d in (tf.bfloat16, tf.float32))
    tensors = [t for op in low.mesh_graph.operations for t in op.outputs]
    slots = [
        t
        for t in tensors
        if {"experts", "expert_capacity"} <= set(t.shape.dimension_names)
        or {"expert_unsplit", "expert_capacity", "d_model"} <= set(t.shape.dimension_names)
    ]
    assert len(slots) >= 6
    assert {t.dtype for t in slots} == {tf.bfloat16}
    for part in PARTS["qkv"]:
        kernel = f"{part}/switch_gating/kernel"
        router = mesh_harness.multiplied_with(low.mesh_graph, kernel)
        assert {t.dtype for t in router} == {tf.float32}
    # 8 bits: of projections of the order of 3, of what attention gives, and of its output.
    scale = np.abs(full.y).max()
    np.testing.assert_allclose(low.y, full.y, atol=0.05 * scale)


# ---- in the model

LAYERS = {
    "encoder/transformer.make_layer_stack.layers": "[@SwitchAttention, @SwitchFFN]",
    "decoder/transformer.make_layer_stack.layers": (
        "[@SwitchAttention, @transformer_layers.EncDecAttention, @SwitchFFN]"
    ),
    "SwitchAttention.num_experts": "4",
}
ROUTED = sorted(
    f"{stack}/block_000/{layer}"
    for stack, ffn in (("decoder", "layer_002"), ("encoder", "layer_001"))
    for layer in ("layer_000/query", "layer_000/key_value", ffn)
)


@pytest.fixture(scope="module")
def tiny_trained(tiny, tmp_path_factory):
    """A model_dir after 2 steps of Table 10's Experts FF + Attention, tiny, and its outcome."""
    model_dir = tmp_path_factory.mktemp("attention") / "run"
    outcome = tiny.train(
        model_dir,
        "--gin_file=sparsity/experts_ff_and_attention.gin",
        "--steps=2",
        params={"num_layers": "2", "mesh_train_dataset_fn.pack": "True"},
    )
    assert outcome.code == 0, outcome.err
    return model_dir


def test_the_composition_trains_and_is_evaluated_with_metrics_of_each_router(
    tiny, tiny_trained
):
    steps = train_log.read(str(tiny_trained))
    assert all(2.5 < step.loss < 5.5 for step in steps)
    outcome = tiny.command("eval", f"--model_dir={tiny_trained}")
    assert outcome.code == 0, outcome.err
    result = json.loads((tiny_trained / "eval.json").read_text())
    expected = [
        "decoder/block_000/layer_003/key_value",
        "decoder/block_000/layer_003/query",
        "decoder/block_000/layer_005",
        "encoder/block_000/layer_002/key_value",
        "encoder/block_000/layer_002/query",
        "encoder/block_000/layer_003",
    ]
    assert sorted(result["router"]) == expected
    # Names of any length leave the columns under their heads.
    lines = outcome.out.splitlines()
    (first,) = (number for number, line in enumerate(lines) if line.startswith("layer "))
    column = lines[first].index("dropped")
    for row in lines[first + 1 : first + 1 + len(expected)]:
        dropped = result["router"][row.split()[0]]["dropped_fraction"]
        assert float(row[column : column + 7]) == pytest.approx(dropped, abs=1e-4)


@pytest.mark.parametrize(
    "bias", ["bias_shared", pytest.param("contextual", marks=pytest.mark.slow)]
)
def test_decoding_says_what_the_whole_sequence_says_and_beams_find_likelier_ones(tiny, bias):
    """Token by token, with states, and all at once; the encoder's capacity drops nothing."""
    settings, vocabulary = tiny.parse(
        {
            **QUIET,
            **NO_DROP,
            **LAYERS,
            "SelfAttention.relative_attention_type": repr(bias),
            "decoder/Unitransformer.shared_embedding_and_softmax_weights": "False",
            "Bitransformer.decode.max_decode_length": str(TARGETS),
        }
    )
    inputs = np.random.RandomState(0).randint(3, 400, size=[8, INPUTS])
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(0)
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        fed = tf.placeholder(tf.int32, [8, TARGETS])
        ids = mesh_harness.constant(mesh, inputs, "batch length", tf.int32)
        shape = mtf.Shape([mtf.Dimension("batch", 8), mtf.Dimension("length", TARGETS)])
        built = switch_transformer.build(settings, vocabulary)
        dtype = utils.get_variable_dtype()
        targets = mtf.import_tf_tensor(mesh, fed, shape)
        logits, _ = built.call_simple(
            ids, targets, compute_loss=True, mode="eval", variable_dtype=dtype
        )
        for layer in switch_transformer.switch_layers(built.decoder):
            # No room to speak of, but decoding drops nothing.
            layer.capacity = ExpertCapacity(0.01, 0.01, 1)
        decode = functools.partial(built.decode, ids, variable_dtype=dtype, temperature=0.0)
        outputs = [decode(), decode(beam_size=4, alpha=0.0)]
        mesh_impl = mtf.placement_mesh_impl.PlacementMeshImpl(
            mtf.Shape([]), mtf.LayoutRules(set()), [""]
        )
        lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl}, autostack=False)
        outputs = [lowering.export_to_tf_tensor(tensor) for tensor in outputs]
        logits = lowering.export_to_tf_tensor(logits)
        session.run(tf.global_variables_initializer())
        greedy, beams = session.run(outputs)
        said = [session.run(logits, {fed: tokens}) for tokens in (greedy, beams)]
    ended = np.cumsum(greedy == EOS_ID, axis=1) - (greedy == EOS_ID) > 0
    np.testing.assert_array_equal(greedy[~ended], said[0].argmax(axis=-1)[~ended])
    assert np.unique(greedy).size > 5, "the outputs are to be worth the look"
    likelihoods = [
        log_likelihoods(of, tokens).sum(axis=-1) for of, tokens in zip(said, (greedy, beams))
    ]
    # A beam may lose what greedy finds later on, but not in all of 8 examples.
    assert np.mean(likelihoods[1] - likelihoods[0]) > 0.01


def test_packed_sequences_give_the_logits_that_they_have_alone(tiny):
    settings, vocabulary = tiny.parse({**QUIET, **NO_DROP, **LAYERS})
    got, _, alone = run_packed_and_alone(None, settings, vocabulary)
    assert sorted(got.router_sums) == ROUTED
    for layer in ROUTED:
        feature = "inputs" if layer.startswith("encoder") else "targets"
        tokens, dropped = got.router_sums[layer][:2]
        assert (tokens, dropped) == (np.count_nonzero(alone[feature]), 0)


@pytest.mark.slow
def test_microbatches_give_the_loss_and_the_routing_of_the_whole_batch(tiny):
    groups = {**LAYERS, "ExpertCapacity.group_size": "16"}
    microbatches = "utils.serialize_num_microbatches.tokens_per_microbatch_per_replica"
    whole_loss, whole = run_first_step(tiny, groups)
    loss, sums = run_first_step(tiny, {**groups, microbatches: "64"})
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    assert sorted(sums) == sorted(whole) == ROUTED
    for layer, expected in whole.items():
        np.testing.assert_allclose(sums[layer], expected, rtol=1e-5)


# ---- what it costs

SIZES = (
    *("d_model = 16", "d_ff = 24", "num_heads = 4", "d_kv = 8", "utils.run.batch_size = 8"),
    "utils.run.sequence_length = {'inputs': 32, 'targets': 16}",
)


def cost(*files, params=()):
    gin_config.parse(["models/t5_tiny.gin", *files], ["MIXTURE_NAME = 'x'", *SIZES, *params])
    settings = run_settings.from_gin()
    return flops.compute_cost(
        switch_transformer.build(settings, types.SimpleNamespace(vocab_size=500)), settings
    )


SPARSE = ("num_experts = 8", "transformer.make_layer_stack.num_layers = 1")
ATTENTION_FILE = "sparsity/experts_attention.gin"
TOKENS = 32 + 16
PROJECTION, ROUTER = 16 * 4 * 8, 16 * 8


def test_linear_experts_do_what_dense_attention_does_but_for_the_router_and_shared_kv():
    dense, sparse = cost(), cost(ATTENTION_FILE, params=SPARSE)
    # One switched layer in each stack: a projection less, and two routers.
    more = 2 * TOKENS * (2 * ROUTER - PROJECTION)
    assert sparse.flops_per_sequence - dense.flops_per_sequence == more
    experts = 2 * (2 * 8 * PROJECTION + 2 * ROUTER - 3 * PROJECTION)
    assert sparse.parameters - dense.parameters == experts


@pytest.mark.parametrize(
    ("file", "in_experts"),
    [
        (ATTENTION_FILE, 2 * PROJECTION),
        ("sparsity/every_other_switch.gin", 2 * 16 * 24),
        ("sparsity/experts_ff_and_attention.gin", 2 * PROJECTION + 2 * 16 * 24),
    ],
)
def test_a_token_that_visits_two_experts_costs_two_of_them(file, in_experts):
    one, two = (
        cost(
            file,
            params=(
                *SPARSE,
                f"SwitchFFN.router = @{router}()",
                f"SwitchAttention.router = @{router}()",
            ),
        )
        for router in ("SwitchRouter", "TopKRouter")
    )
    assert one.parameters == two.parameters
    assert two.flops_per_sequence - one.flops_per_sequence == 2 * TOKENS * in_experts


@pytest.mark.parametrize("network", ["linear", "ffn"])
def test_a_pod_is_planned_with_its_experts(network):
    settings = planner.parse_settings(
        ["models/t5_tiny.gin", ATTENTION_FILE, "layouts/expert_model_data.gin"],
        (*SIZES, *SPARSE, f"SwitchAttention.expert_network = '{network}'"),
    )
    plan = planner.make_plan(settings)
    experts = PROJECTION if network == "linear" else 16 * 24 + 24 * 32
    assert plan.parameters["experts"] == 2 * 2 * 8 * experts
    assert plan.parameters["router"] == 2 * 2 * ROUTER
    exchanges = [c for c in plan.collectives if c.kind == "all_to_all"]
    # Two in each direction for each of four sets; nothing else.
    assert sum(exchange.count for exchange in exchanges) == 16
    assert {exchange.dtype for exchange in exchanges} == {"bfloat16"}
    if network == "linear":
        # Slots come back with the heads of one core: half of them.
        assert {exchange.shape[-1] for exchange in exchanges} == {16, 4 * 8 // 2}


# ---- initial values


def test_query_weights_have_the_initial_values_of_t5s():
    """1 / sqrt(d_kv) is in them; elsewhere an expert's fan-in is its own."""
    x, nonpadding = np.ones((1, 4, 64)), np.ones((1, 4), int)
    for network, kernel, fan_in in (("linear", "w", 64), ("ffn", "wo", 32)):
        for folded in (True, False):
            layer = functools.partial(
                SwitchAttention,
                4,
                expert_network=network,
                hidden_size=32,
                num_heads=8,
                key_value_size=16,
                fold_scaling_into_initializer=folded,
            )
            outcome = mesh_harness.run_layer(
                layer, x, nonpadding=nonpadding, differentiate=False
            )
            values = outcome.variables
            deviations = {
                part: values[f"{part}/{kernel}/kernel"].std() / 0.87962566  # truncated
                for part in PARTS["qkv"]
            }
            scale = 16 if folded else 1
            # 16,384 or more samples: the deviation is known to 0.6%; three of those.
            assert deviations["query"] == pytest.approx((fan_in * scale) ** -0.5, rel=0.02)
            assert deviations["key_value"] == pytest.approx(fan_in**-0.5, rel=0.02)


# ---- what is refused


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"expert_computation": "qk"}, r"expert_computation is 'qk'.* 'qkv', 'q', 'kv'\."),
        ({"expert_network": "conv"}, r"expert_network is 'conv'.* one of 'linear', 'ffn'\."),
        (
            {"relative_attention_type": "rotary"},
            r"relative_attention_type is 'rotary'.* None, 'bias', 'bias_shared', 'contextual'",
        ),
        ({"shared_kv": False}, r"works with shared_kv = True only, .*; it is False"),
        ({"num_memory_heads": 1}, r"works with num_memory_heads = 0 only, .*; it is 1"),
        ({"combine_dims": False}, r"works with combine_dims = True only"),
        ({"keep_query_heads_dims": True}, r"works with keep_query_heads_dims = False only"),
        ({"hyperprompt_length_encoder": 3}, r"works with hyperprompt_length_encoder = None"),
        ({"num_experts": 0}, r"SwitchAttention\.num_experts is 0, but it must be at least 1"),
        ({"dispatch": "scatter"}, r"SwitchAttention\.dispatch is 'scatter'"),
        (
            {"expert_network": "ffn", "activation": "rleu"},
            r"SwitchAttention\.activation names 'rleu'",
        ),
        ({"router": "top-2"}, r"SwitchAttention\.router is 'top-2', but it must be a router"),
        (
            {"num_experts": 1, "router": TopKRouter(exploration=ARGMAX)},
            r"TopKRouter\.k is 2, but there are only 1 experts",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_can(params, message):
    with pytest.raises(UserError, match=message):
        SwitchAttention(**params)


def test_settings_of_dense_attention_reach_it_through_gin():
    gin.parse_config("SelfAttention.num_heads = 4\nSelfAttention.combine_dims = False")
    with pytest.raises(UserError, match="combine_dims = True only"):
        SwitchAttention()
    gin.parse_config("SelfAttention.combine_dims = True\nSwitchAttention.num_experts = 3")
    layer = SwitchAttention()
    assert layer.num_heads == 4
    assert [part.num_experts for part in layer.switch_layers] == [3, 3]


def test_an_ensemble_is_refused_with_what_to_unset():
    ensemble = _fake_model(ensemble_dim=mtf.Dimension("ensemble", 2))
    with pytest.raises(UserError, match=r"SwitchAttention does not .*Unset it"):
        Case().run(model=ensemble)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"ExpertCapacity.group_size": "48"},
            r"encoder/block_000/layer_000/query: .*48 does not divide",
        ),
        (
            {"utils.run.mesh_shape": "'a:3'", "utils.run.layout_rules": "'experts:a'"},
            r"block_000/layer_000/query: experts' weights.*SwitchAttention\.num_experts",
        ),
        (
            {
                "utils.run.mesh_shape": "'a:2'",
                "utils.run.layout_rules": "'experts:a,heads:a'",
            },
            r"block_000/layer_000/query: experts' weights.*experts.*heads",
        ),
    ],
)
def test_what_a_batch_or_a_layout_cannot_do_is_refused_with_the_set_of_experts(
    tiny, params, message
):
    settings, vocabulary = tiny.parse({**LAYERS, **params})
    with pytest.raises(UserError, match=message):
        switch_transformer.build(settings, vocabulary)
