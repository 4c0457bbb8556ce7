"""The whole layer: against the loops, upstream's layer, finite differences and itself.

Whatever is compared in float32 went through sums of at most some tens of terms of the order
of 1 and a softmax: float32's 6e-8 leaves 1e-5 with room to spare.
"""

from __future__ import annotations

import dataclasses
import math

import gin
import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
import upstream_layers
from hypothesis import given, settings
from hypothesis import strategies as st
from upstream_layers import Parity

from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.switch_ffn import SwitchFFN

# SwitchFFN.dispatch, and whether for a TPU: the paper's products, the same slots by index, and
# no slots at all.
DISPATCHES = {
    "einsum": ("einsum", False),
    "slots": ("gather", True),
    "sorted": ("gather", False),
}
RELU = ("relu",)
GATED = ("gelu", "linear")


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and its input.

    Attributes:
      dims: of x but for M, names and sizes.
      model, experts, hidden: M, E, F.
      group_size, factor, least: of ExpertCapacity, the factor in every mode.
      activations: of the experts.
      real: share of positions that are no padding, a pattern by name, or None where padding
        is not known.
      padding: how the loss treats it.
      skew: see oracle.tokens_with_clear_choices.
      mode: of the Context.
      dispatch: a key of DISPATCHES.
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
    dispatch: str = "sorted"
    seed: int = 0

    @property
    def names(self):
        return tuple(name for name, _ in self.dims)

    @property
    def sizes(self):
        return tuple(size for _, size in self.dims)

    @property
    def tokens(self):
        """In one copy of the experts."""
        return math.prod(size for name, size in self.dims if name != "outer_batch")

    def layer(self):
        activation = self.activations[0] if len(self.activations) == 1 else self.activations
        dispatch, on_tpu = DISPATCHES[self.dispatch]
        layer = SwitchFFN(
            self.experts,
            self.hidden,
            activation,
            capacity=ExpertCapacity(self.factor, self.factor, self.least, self.group_size),
            router=SwitchRouter(exploration=Exploration("argmax"), padding=self.padding),
            dispatch=dispatch,
        )
        layer.set_target(on_tpu=on_tpu)
        return layer

    def draw(self):
        """x, nonpadding (or None) and the weights."""
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
        """[*dims, ...] as [G, S, ...], the copies of the experts as more groups."""
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
    """Outputs, losses, routing and metrics; returns the outcome and what was expected."""
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
    if case.mode in ("train", "eval"):
        (sums,) = outcome.metrics.values()
        np.testing.assert_allclose(sums, expected.sums, rtol=1e-5, atol=1e-5)
    else:
        assert not outcome.metrics
    # Not a word less than zero where a token is dropped or padding.
    np.testing.assert_array_equal(case.grouped(outcome.y)[~expected.routing.kept], 0.0)
    return outcome, expected


@st.composite
def cases(draw):
    # Lists, not ranges, of which hypothesis likes the lower ends: few tokens show little.
    dims = [("batch", draw(st.sampled_from([1, 2, 3, 4, 6])))]
    if draw(st.sampled_from([False, False, True])):
        dims.insert(0, ("outer_batch", draw(st.sampled_from([1, 2]))))
    if draw(st.sampled_from([False, False, True])):
        dims.append(("beam", draw(st.sampled_from([1, 2, 3]))))
    if draw(st.sampled_from([False, True, True])):
        dims.append(("length", draw(st.sampled_from([1, 2, 4, 6, 7]))))
    tokens = math.prod(size for name, size in dims if name != "outer_batch")
    divisors = [size for size in range(1, tokens + 1) if tokens % size == 0]
    return Case(
        dims=tuple(dims),
        model=draw(st.sampled_from([1, 2, 4, 5])),
        experts=draw(st.sampled_from([1, 2, 3, 4, 6])),
        hidden=draw(st.sampled_from([1, 3, 5])),
        group_size=draw(st.sampled_from([None, *divisors, 2 * tokens])),
        factor=draw(st.sampled_from([0.25, 1.0, 1.25, 2.0])),
        least=draw(st.sampled_from([1, 2, 4])),
        activations=draw(st.sampled_from([RELU, ("gelu",), GATED])),
        real=draw(st.sampled_from([None, 0.0, 0.5, 0.9, "rows", "ends"])),
        padding=draw(st.sampled_from(["masked", "upstream"])),
        skew=draw(st.sampled_from([0.0, 0.6, 0.95, 0.95])),
        mode=draw(st.sampled_from(["train", "eval", "first_part", "incremental"])),
        dispatch=draw(st.sampled_from(list(DISPATCHES))),
        seed=draw(st.integers(0, 999)),
    )


@settings(max_examples=60)
@given(cases())
def test_layer_equals_the_loops(case):
    check_against_the_oracle(case)


ROWS_OF_4 = (("batch", 3), ("length", 4))
NAMED = {
    "one group": Case(),
    "several groups, some across rows": Case(group_size=6),
    "groups smaller than a row": Case(group_size=2),
    "one token a group": Case(group_size=1),
    "capacity 1": Case(factor=0.01),
    "one expert": Case(experts=1),
    "all tokens to one expert": Case(skew=0.95, factor=0.75),
    "more experts than tokens": Case(dims=(("batch", 2), ("length", 2)), experts=7),
    "more than ten experts": Case(dims=(("batch", 8), ("length", 6)), experts=12),
    "padding in the middle": Case(real=0.5, factor=0.75),
    "padding at the end": Case(real="ends", factor=0.75),
    "padding that fills rows": Case(real="rows"),
    "padding that fills groups": Case(real="rows", group_size=4),
    "padding as upstream counts it": Case(real=0.5, padding="upstream"),
    "padding alone": Case(real=0.0, group_size=4),
    "batch > 1, length != groups": Case((("batch", 4), ("length", 6)), group_size=8),
    "copies of the experts": Case((("outer_batch", 2), *ROWS_OF_4), group_size=6, real=0.6),
    "beams": Case((("batch", 2), ("beam", 3), ("length", 4)), group_size=4, real=0.6),
    "no length": Case((("batch", 6),), mode="incremental"),
    "no length, with beams": Case((("batch", 3), ("beam", 2)), mode="incremental"),
    "no length, in groups": Case((("batch", 6),), group_size=3, real=0.5),
    "gated": Case(activations=GATED),
    "evaluation": Case(mode="eval", real=0.7),
    "a prompt": Case(mode="first_part", real=0.7),
    "a prompt that the groups do not divide": Case(mode="first_part", group_size=5),
}


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("name", NAMED)
def test_named_case_equals_the_loops(name, dispatch):
    check_against_the_oracle(dataclasses.replace(NAMED[name], dispatch=dispatch))


def test_named_cases_are_what_their_names_say():
    """Of the cases whose point is in the numbers drawn, not only in the sizes."""
    _, expected = check_against_the_oracle(NAMED["all tokens to one expert"])
    assert len(set(expected.routing.expert_index.ravel())) == 1
    assert expected.sums[1] == 9  # 12 tokens, 12 / 3 * 0.75 slots
    _, expected = check_against_the_oracle(NAMED["capacity 1"])
    assert expected.routing.position_in_expert[expected.routing.kept].max() == 0
    assert expected.sums[1] > 0
    _, expected = check_against_the_oracle(NAMED["more than ten experts"])
    assert expected.routing.expert_index.max() > 10


# ---- upstream's layer, the same variables


PARITY = {
    "train": Parity(),
    "train, padding": Parity(real=0.6),
    "train, padding, gated": Parity(real=0.6, activation=GATED),
    "train, padding, one group": Parity(real=0.6, group_size=64),
    "train, padding, little room": Parity(real=0.8, factor=0.5),
    "train, rows not groups": Parity(shape=(8, 6, 5), experts=3, group_size=12, real=0.7),
    "eval, padding": Parity(real=0.6, mode="eval"),
    "eval, gated": Parity(mode="eval", activation=GATED),
    "train, padding, 4 devices": Parity(real=0.6, devices=4),
    "train, padding, gated, 4 devices": Parity(real=0.6, devices=4, activation=GATED),
    "eval, padding, 4 devices": Parity(real=0.6, devices=4, mode="eval"),
}


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("name", PARITY)
def test_equals_upstream_in_outputs_losses_and_all_gradients(name, dispatch):
    case = PARITY[name]
    if case.devices > 1 and dispatch == "sorted":
        pytest.skip("One core only: several hold slots.")
    by, on_tpu = DISPATCHES[dispatch]
    ours, theirs = upstream_layers.run_both(
        case,
        SwitchRouter(exploration=Exploration("argmax"), padding="upstream"),
        "switch",
        # As loud as the outputs, so that its share of the gradients counts.
        1000.0,
        dispatch=by,
        on_tpu=on_tpu,
        switch_jitter=0.0,
    )
    # Names agree as well: checkpoints are the same.
    assert ours.variables.keys() == theirs.variables.keys()
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)
    upstream_layers.assert_equal_outputs_and_gradients(ours, theirs)


# ---- gradients against central differences of the loops


FINITE_DIFFERENCES = {
    "relu": Case(group_size=6, factor=0.75, seed=1),
    "gated, padding": Case(group_size=6, activations=GATED, real=0.7, seed=2),
    "padding as upstream": Case(group_size=4, real=0.6, padding="upstream", seed=3),
    "all to one expert": Case(skew=0.95, factor=0.75, activations=("gelu",), seed=4),
}


@pytest.mark.parametrize("only_the_loss", [False, True])
@pytest.mark.parametrize("name", FINITE_DIFFERENCES)
def test_gradients_equal_finite_differences_of_the_loops(name, only_the_loss):
    case = FINITE_DIFFERENCES[name]
    x, nonpadding, weights = case.draw()
    rng = np.random.default_rng(0)
    dy = np.zeros(x.shape) if only_the_loss else rng.standard_normal(x.shape)
    loss_weight = 100.0  # makes alpha 1
    point = {"x": x, **weights.variables()}
    routing = case.expected(x, nonpadding, weights).routing

    def objective(at):
        wi = tuple(at[n] for n in sorted(at) if n.startswith("wi"))
        here = oracle.Weights(at["switch_gating/kernel"], wi, at["wo/kernel"])
        layer = case.expected(at["x"], nonpadding, here)
        # The layer is smooth only while no token changes its expert.
        np.testing.assert_array_equal(layer.routing.expert_index, routing.expert_index)
        return np.sum(layer.y * case.grouped(dy)) + loss_weight * layer.aux_loss

    outcome = mesh_harness.run_layer(
        case.layer,
        x,
        nonpadding=nonpadding,
        variables=weights.variables(),
        dy=dy,
        loss_weight=loss_weight,
    )
    # In float64 a step of 1e-5 leaves an error of about 1e-10 from curvature and 1e-11 from
    # rounding; margins of the routing (1e-3) and of ReLU's corner are wider than the step.
    for what, numeric in oracle.central_differences(objective, point, step=1e-5).items():
        grad = outcome.grads.get(what, np.zeros(numeric.shape))
        np.testing.assert_allclose(grad, numeric, rtol=1e-4, atol=1e-5, err_msg=what)
        reaches = not only_the_loss or what in ("x", "switch_gating/kernel")
        assert (np.abs(numeric).max() > 1e-3) == reaches, what


# ---- bfloat16


def bfloat16(array):
    """Rounded to what bfloat16 holds."""
    return array.astype(tf.bfloat16.as_numpy_dtype).astype(np.float64)


@pytest.mark.parametrize("activations", [RELU, ("linear", "linear")])
def test_bfloat16_stays_within_its_rounding_errors_of_float32(activations):
    case = Case(
        (("batch", 4), ("length", 16)),
        model=8,
        hidden=16,
        group_size=32,
        activations=activations,
    )
    x, _, weights = case.draw()
    # Numbers that bfloat16 holds, so that both layers get the same ones. The router's
    # weights need not be: it never rounds them.
    x = bfloat16(x)
    weights = oracle.Weights(
        weights.w_r, tuple(bfloat16(kernel) for kernel in weights.wi), bfloat16(weights.wo)
    )
    logits = np.sort(x @ weights.w_r, -1)
    assert np.min(logits[..., -1] - logits[..., -2]) > 1e-4
    low, full = (
        mesh_harness.run_layer(
            case.layer,
            x,
            activation_dtype=dtype,
            variables=weights.variables(),
            differentiate=False,
        )
        for dtype in (tf.bfloat16, tf.float32)
    )
    np.testing.assert_array_equal(low.routing["kept"], full.routing["kept"])
    np.testing.assert_array_equal(low.routing["expert_index"], full.routing["expert_index"])
    np.testing.assert_allclose(low.routing["gate"], full.routing["gate"], rtol=1e-5)
    # Each rounding to bfloat16 (8 bits) is within 2^-8, relative: of every hidden unit (one
    # per factor and one for their product), of the expert's output, of the gate, and of
    # their product. Summed over the hidden units they are at most that share of the sum of
    # absolute values.
    factors = len(activations)
    roundings = (1 if factors == 1 else factors + 1) + 3
    bound = np.zeros_like(x).reshape(-1, 8)
    routing = {k: v.reshape(-1) for k, v in full.routing.items()}
    for s, token in enumerate(np.abs(x).reshape(-1, 8)):
        if routing["kept"][s]:
            e = routing["expert_index"][s]
            hidden = np.prod([token @ np.abs(kernel[e]) for kernel in weights.wi], 0)
            bound[s] = routing["gate"][s] * (hidden @ np.abs(weights.wo[e]))
    error = np.abs(low.y - full.y).reshape(-1, 8)
    assert np.all(error <= roundings * 1.05 * 2.0**-8 * bound)
    # And it is bfloat16 that was compared.
    assert error.max() > 2.0**-12


class KeepsOutput:
    """A layer that keeps its output as the tensor it is."""

    def __init__(self, layer):
        self.layer = layer
        self.router = layer.router

    def call(self, context, x):
        self.layer.router = self.router
        self.y = self.layer.call(context, x)
        self.losses = context.losses
        return self.y


@pytest.mark.parametrize("mode", ["train", "eval", "incremental"])
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float32])
@pytest.mark.parametrize("dispatch", ["einsum", "slots"])
def test_dtypes_at_every_boundary(mode, dtype, dispatch):
    kept = []

    def make_layer():
        by, on_tpu = DISPATCHES[dispatch]
        layer = SwitchFFN(4, 8, list(GATED), expert_dropout_rate=0.1, dispatch=by)
        layer.set_target(on_tpu=on_tpu)
        kept.append(KeepsOutput(layer))
        return kept[0]

    outcome = mesh_harness.run_layer(
        make_layer,
        np.random.default_rng(0).standard_normal((2, 8, 4)),
        nonpadding=np.ones((2, 8), int),
        mode=mode,
        activation_dtype=dtype,
        seed=1,
    )
    (layer,) = kept
    graph = outcome.mesh_graph
    router_input, logits = mesh_harness.multiplied_with(graph, "switch_gating/kernel")
    kernel = next(v for v in graph.trainable_variables if v.name == "switch_gating/kernel")
    routing = layer.router.routing
    in_float32 = [router_input, logits, kernel.outputs[0], routing.gate, routing.kept]
    in_float32 += [routing.aux_loss, routing.sums]
    assert {t.dtype for t in in_float32} == {tf.float32}
    # From the router's input to the gate nothing is of another dtype (but for indices).
    for tensor in between(router_input, routing.gate):
        assert tensor.dtype == tf.float32, tensor
    for name in ("wi_0/kernel", "wi_1/kernel", "wo/kernel"):
        taken, given_ = mesh_harness.multiplied_with(graph, name)
        assert taken.dtype == given_.dtype == dtype, name
    assert layer.y.dtype == dtype
    assert [loss.dtype for loss in layer.losses] == [dtype]
    # Dispatch and combine, slots, experts and both all-to-alls, forward and backward: all
    # that is as large as the capacity is in the activation dtype, but for comparisons.
    slots = [
        tensor
        for operation in graph.operations
        for tensor in operation.outputs
        if "expert_capacity" in tensor.shape.dimension_names
        and tensor.dtype.is_floating
        and {"group", "batch", "batch_unsplit"} & set(tensor.shape.dimension_names)
    ]
    assert len(slots) > 20
    wrong = [tensor for tensor in slots if tensor.dtype != dtype]
    if mode == "train":
        # Dropout compares noise in the dtype of what it drops.
        wrong = [tensor for tensor in wrong if "dropout" not in tensor.name]
    assert not wrong


def between(start, end):
    """All floating tensors on the ways from one tensor to another."""
    reached, ways = {start}, []
    for operation in start.graph.operations:
        if reached & set(operation.inputs):
            reached |= set(operation.outputs)
    needed = {end}
    for operation in reversed(start.graph.operations):
        if needed & set(operation.outputs):
            ways += [t for t in operation.outputs if t in reached and t.dtype.is_floating]
            needed |= set(operation.inputs)
    return ways


# ---- several devices


def on_mesh(case, *, loss_weight=100.0, jitter=0.0, dispatch="gather", **mesh):
    x, nonpadding, weights = case.draw()

    def make_layer():
        layer = case.layer()
        layer.dispatch_method = dispatch
        layer.router = SwitchRouter(exploration=Exploration(jitter=jitter))
        return layer

    return mesh_harness.run_layer(
        make_layer,
        x,
        nonpadding=nonpadding,
        variables=weights.variables(),
        dy=np.random.default_rng(0).standard_normal(x.shape),
        loss_weight=loss_weight,
        trace=True,
        **mesh,
    )


def assert_same(one, other):
    """Equal but for the order of float32 sums across cores."""
    np.testing.assert_array_equal(one.routing["kept"], other.routing["kept"])
    np.testing.assert_allclose(one.y, other.y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)
    for name, grad in one.grads.items():
        scale = np.abs(grad).max()
        np.testing.assert_allclose(
            grad, other.grads[name], rtol=1e-5, atol=1e-5 * scale, err_msg=name
        )
    for layer, sums in one.metrics.items():
        np.testing.assert_allclose(sums, other.metrics[layer], rtol=1e-5)


PINNED = Case(
    (("batch", 8), ("length", 6)),
    experts=8,
    hidden=6,
    group_size=6,
    factor=1.5,
    real=0.7,
    skew=0.3,
)


@pytest.fixture(scope="module")
def on_one_device():
    return on_mesh(PINNED)


@pytest.mark.parametrize("dispatch", ["einsum", "gather"])
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_several_devices_give_what_one_gives_for_the_same_groups(
    on_one_device, devices, dispatch
):
    several = on_mesh(PINNED, devices=devices, dispatch=dispatch)
    assert_same(on_one_device, several)
    # And they are several, each at work on its own share of the experts.
    ran = {name.rsplit(":", 1)[1]: ops for name, ops in several.ops_run.items()}
    assert ran.keys() == {str(i) for i in range(devices)}
    slices = {
        v.op.name: v for v in several.tf_graph.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES)
    }
    shares = {"wi/kernel": [8 // devices, 4, 6], "wo/kernel": [8 // devices, 6, 4]}
    for kernel, share in shares.items():
        product = mesh_harness.multiplied_with(several.mesh_graph, kernel)[1].operation
        for i in range(devices):
            prefix = f"{product.name}/parallel_{i}/"
            assert any(op.startswith(prefix) for op in ran[str(i)]), (kernel, i)
            assert not any(op.startswith(prefix) for j in ran if j != str(i) for op in ran[j])
            assert slices[f"{kernel}_slice_{i}"].shape.as_list() == share


@pytest.mark.parametrize(
    ("mesh_shape", "layout"),
    [
        ("data:2,model:2", "batch:data,experts:data,expert_hidden:model"),
        ("model:2,data:2", "batch:data,experts:data,expert_hidden:model"),
        ("data:2,model:2", "batch:data,experts:data,d_model:model"),
        ("data:4", "batch:data"),
        ("all:4", "experts:all"),
    ],
)
@pytest.mark.parametrize("dispatch", ["einsum", "gather"])
def test_other_layouts_give_what_one_device_gives(on_one_device, mesh_shape, layout, dispatch):
    several = on_mesh(PINNED, mesh_shape=mesh_shape, layout=layout, dispatch=dispatch)
    assert_same(on_one_device, several)


def test_jitter_agrees_over_the_cores_that_share_tokens():
    layout = "batch:data,experts:data,expert_hidden:model"
    data = on_mesh(PINNED, jitter=0.3, mesh_shape="data:2", layout=layout)
    both = on_mesh(PINNED, jitter=0.3, mesh_shape="data:2,model:2", layout=layout)
    assert_same(data, both)


# ---- what a user sees


def test_one_group_per_core_by_default():
    case = Case((("batch", 8), ("length", 4)), experts=4)
    for devices in (1, 2, 4):
        outcome = on_mesh(case, devices=devices)
        assert outcome.routing["gate"].shape == (1, devices, 32 // devices)


def test_expert_dropout_acts_on_hidden_units_in_training_only():
    case = Case(factor=3.0, hidden=400)
    x, _, weights = case.draw()
    # All hidden units of a token are alike, so its output tells which share was dropped.
    weights = oracle.Weights(
        weights.w_r, (np.ones_like(weights.wi[0]),), np.ones_like(weights.wo)
    )
    x = np.abs(x)

    def run(rate, mode):
        def make_layer():
            layer = case.layer()
            layer.expert_dropout_rate = rate
            return layer

        return mesh_harness.run_layer(
            make_layer, x, mode=mode, variables=weights.variables(), differentiate=False
        ).y

    off = run(0.0, "train")
    np.testing.assert_array_equal(run(0.4, "eval"), run(0.0, "eval"))
    ratio = run(0.4, "train") / off
    # What is left is scaled up by 1 / 0.6; 400 units leave a spread of about 0.04.
    np.testing.assert_allclose(ratio, 1.0, atol=0.2)
    assert ratio.std() > 0.01
    # A token's outputs share its hidden units.
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[..., :1], ratio.shape), 1e-5)


def test_microbatches_divide_the_loss_but_not_what_is_recorded():
    case = Case()
    x, _, weights = case.draw()
    whole, quarter = (
        mesh_harness.run_layer(case.layer, x, variables=weights.variables(), num_microbatches=n)
        for n in (1, 4)
    )
    np.testing.assert_allclose(whole.losses, 4 * np.array(quarter.losses), rtol=1e-6)
    for layer, sums in whole.metrics.items():
        np.testing.assert_array_equal(sums, quarter.metrics[layer])


def test_defaults_come_from_gin():
    gin.parse_config(
        "SwitchFFN.num_experts = 16\nSwitchRouter.aux_loss_coef = 0.5\n"
        "ExpertCapacity.group_size = 12"
    )
    layer = SwitchFFN()
    assert layer.num_experts == 16
    assert layer.router.aux_loss_coef == 0.5
    assert layer.capacity.group_size == 12


def test_no_experts_are_refused():
    with pytest.raises(UserError, match="num_experts is 0, but it must be at least 1"):
        SwitchFFN(num_experts=0)


def test_an_ensemble_is_refused_with_what_to_unset():
    x = np.ones((2, 2, 4))
    model = mesh_harness.FakeModel(
        mtf.Dimension("d_model", 4), ensemble_dim=mtf.Dimension("ensemble", 2)
    )
    with pytest.raises(UserError, match=r"Unitransformer\.ensemble.*Unset it"):
        mesh_harness.run_layer(Case().layer, x, model=model)


def test_a_group_size_that_does_not_divide_is_refused_in_the_layer():
    with pytest.raises(UserError, match="nearest sizes that do: 4 and 6;"):
        mesh_harness.run_layer(Case(group_size=5).layer, np.ones((3, 4, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"dispatch": "scatter"},
            r"dispatch is 'scatter', .* 'einsum', 'gather', 'sort', 'auto'",
        ),
        ({"activation": "rleu"}, r"activation names 'rleu'.*\"relu\""),
        ({"activation": ["gelu", "lin"]}, r"activation names 'lin'.*\[\"gelu\", \"linear\"\]"),
    ],
)
def test_unknown_names_are_refused_with_those_there_are(arguments, message):
    with pytest.raises(UserError, match=message):
        SwitchFFN(**arguments)


@pytest.mark.parametrize(
    ("dispatch", "on_tpu", "devices", "way"),
    [
        ("auto", True, 1, "one-hot"),
        ("auto", False, 1, "sorted"),
        ("auto", False, 2, "slots by index"),
        ("sort", False, 1, "sorted"),
        ("gather", False, 1, "sorted"),
        ("gather", False, 2, "slots by index"),
        ("gather", True, 1, "slots by index"),
        ("einsum", False, 1, "one-hot"),
    ],
)
def test_the_dispatch_fits_the_machine(dispatch, on_tpu, devices, way):
    def make_layer():
        layer = SwitchFFN(2, 3, dispatch=dispatch)
        layer.set_target(on_tpu=on_tpu)
        return layer

    outcome = mesh_harness.run_layer(
        make_layer, np.ones((2, 2, 4)), devices=devices, differentiate=False
    )
    names = {op.name.split("_")[0] for op in outcome.mesh_graph.operations}
    ways = {"permute": "sorted", "move": "slots by index"}
    assert {ways[name] for name in names & ways.keys()} <= {way}
    slots = any(
        {"group", "expert_capacity"} <= set(tensor.shape.dimension_names)
        for operation in outcome.mesh_graph.operations
        for tensor in operation.outputs
    )
    assert slots == (way == "one-hot")


@pytest.mark.parametrize(
    ("on_tpu", "mesh_shape", "activation", "reason"),
    [
        (True, None, "relu", "a TPU cannot run it, as it needs static shapes"),
        (False, "all:4", "relu", "it needs one core that holds everything, and the mesh has 4"),
        (False, "all:1", "softplus", "TensorFlow lacks an activation of the experts"),
    ],
)
def test_sorting_is_refused_where_it_cannot_run(on_tpu, mesh_shape, activation, reason):
    layer = SwitchFFN(2, 3, activation, dispatch="sort")
    layer.set_target(on_tpu=on_tpu)
    with pytest.raises(UserError) as error:
        layer.resolve_dispatch(mesh_shape)
    assert (
        str(error.value) == f"SwitchFFN.dispatch is 'sort', but {reason}: use 'auto' instead."
    )


def test_an_activation_that_is_mesh_tensorflows_alone_takes_slots_and_equals_the_paper():
    case = Case(activations=("softplus",), dispatch="sorted")
    by_product = dataclasses.replace(case, dispatch="einsum")
    x, _, weights = case.draw()
    outputs = [
        mesh_harness.run_layer(c.layer, x, variables=weights.variables(), differentiate=False).y
        for c in (case, by_product)
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-6)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_only_the_papers_dispatch_has_a_tensor_of_tokens_by_slots(dispatch):
    # 64 tokens, 8 experts with 16 slots each: 8,192 numbers. The largest others: slots by
    # hidden units, 8 x 16 x 8, forward and backward.
    case = Case(
        (("batch", 4), ("length", 16)), 4, 8, 8, factor=2.0, real=0.9, dispatch=dispatch
    )
    x, nonpadding, weights = case.draw()
    outcome = mesh_harness.run_layer(
        case.layer, x, nonpadding=nonpadding, variables=weights.variables()
    )
    sizes = [t.shape for op in outcome.tf_graph.get_operations() for t in op.outputs]
    largest = max(shape.num_elements() for shape in sizes if shape.is_fully_defined())
    assert largest == 8192 if dispatch == "einsum" else largest <= 1024


def test_while_decoding_all_tokens_are_one_group_whatever_the_largest_is():
    # 7 tokens have no group of 3 or 4; in training that is refused.
    rng = np.random.default_rng(0)
    weights = oracle.Weights.draw(rng, 4, 3, 5)
    x = oracle.tokens_with_clear_choices(rng, (7, 4), weights.w_r)
    outcome = mesh_harness.run_layer(
        lambda: SwitchFFN(3, 5, capacity=ExpertCapacity(max_group_size=4)),
        x,
        dims=("batch",),
        mode="incremental",
        variables=weights.variables(),
        differentiate=False,
    )
    assert outcome.routing["kept"].shape == (1, 1, 7)
    assert outcome.routing["kept"].all()
