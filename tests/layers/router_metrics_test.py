"""The routers' sums: their content, and that every kind of step returns all of them."""

import dataclasses

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf

from mtf_switch.layers import recorded_sums, router_metrics
from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.router_metrics import RouterMetrics
from mtf_switch.layers.switch_ffn import SwitchFFN

LAYER = "encoder/block_000/layer_001"


def test_metrics_by_hand():
    # 8 tokens, 2 dropped, 6 nats, gates of 4 in all, losses of 0.02 and 0.03 at each, the
    # choices, and 5 served by their first and 1 by their second.
    sums = np.array([8.0, 2.0, 6.0, 4.0, 0.16, 0.24, 5.0, 2.0, 1.0, 5.0, 1.0, 0.0])
    metrics = RouterMetrics.from_sums(sums)
    assert metrics.tokens == 8.0
    assert metrics.dropped_fraction == 0.25
    assert metrics.entropy == 0.75
    assert metrics.gate == 0.5
    assert metrics.aux_loss == pytest.approx(0.02)
    assert metrics.z_loss == pytest.approx(0.03)
    np.testing.assert_array_equal(metrics.expert_load, [0.625, 0.25, 0.125])
    np.testing.assert_array_equal(metrics.served, [0.625, 0.125, 0.0])


def test_metrics_of_no_token_at_all_are_zero_and_not_nan():
    metrics = RouterMetrics.from_sums(np.zeros(12))
    assert (metrics.tokens, metrics.dropped_fraction, metrics.entropy) == (0.0, 0.0, 0.0)
    np.testing.assert_array_equal(metrics.expert_load, [0.0, 0.0, 0.0])


@pytest.mark.parametrize("tokens", [8.0, 0.0])
def test_tensorboard_shows_the_same_means(tokens):
    sums = np.array([8.0, 2.0, 6.0, 4.0, 0.16, 0.24, 5.0, 2.0, 1.0, 5.0, 1.0, 0.0]) * (
        tokens > 0
    )
    metrics = RouterMetrics.from_sums(sums)
    with tf.Graph().as_default(), tf.Session() as session:
        shown = session.run(router_metrics.compute_means(tf.constant(sums, tf.float32)))
    # The even share of three experts is a third.
    assert shown.pop("load_max_over_even") == pytest.approx(3 * max(metrics.expert_load))
    assert shown.pop("load_min_over_even") == pytest.approx(3 * min(metrics.expert_load))
    fields = {field.name for field in dataclasses.fields(metrics)}
    assert shown.keys() == fields - {"tokens", "served"}
    for name, value in shown.items():
        np.testing.assert_allclose(value, getattr(metrics, name), rtol=1e-6)


def test_tokens_of_one_expert_have_no_entropy_and_a_gate_of_1():
    outcome = run_once(experts=1)
    metrics = RouterMetrics.from_sums(outcome.metrics[LAYER])
    # The entropy takes the logarithm of p + 1e-9, because that of 0 is infinite: 1e-9 nats.
    assert metrics.entropy == pytest.approx(0.0, abs=1e-6)
    assert metrics.gate == pytest.approx(1.0)
    np.testing.assert_array_equal(metrics.expert_load, [1.0])


def test_even_probabilities_have_the_entropy_of_all_experts():
    outcome = run_once(experts=6, variables={"switch_gating/kernel": np.zeros((4, 6))})
    metrics = RouterMetrics.from_sums(outcome.metrics[LAYER])
    assert metrics.entropy == pytest.approx(np.log(6), rel=1e-6)
    assert metrics.gate == pytest.approx(1 / 6)
    # All tie, and the first expert wins.
    np.testing.assert_array_equal(metrics.expert_load, [1, 0, 0, 0, 0, 0])


def run_once(experts, variables=None, mode="train", dispatch="auto"):
    router = SwitchRouter(exploration=Exploration("argmax"))
    return mesh_harness.run_layer(
        lambda: SwitchFFN(experts, 3, router=router, dispatch=dispatch),
        np.random.default_rng(0).standard_normal((2, 6, 4)),
        mode=mode,
        variables=variables,
        differentiate=False,
    )


def test_building_the_layer_takes_no_more_operations_for_more_experts():
    few, many = (run_once(experts, dispatch="einsum") for experts in (2, 64))
    for outcome in (few, many):
        assert len(outcome.metrics) == 1
    assert len(few.mesh_graph.operations) == len(many.mesh_graph.operations)
    assert len(few.tf_graph.get_operations()) == len(many.tf_graph.get_operations())


@pytest.mark.parametrize(
    ("mode", "recorded"), [("train", 1), ("eval", 1), ("infer", 1), ("incremental", 0)]
)
def test_metrics_are_recorded_except_while_decoding_token_by_token(mode, recorded):
    assert len(run_once(3, mode=mode).metrics) == recorded


def test_metrics_have_no_gradient():
    def build(mesh):
        x = mesh_harness.constant(
            mesh, np.ones((1, 1, 2, 3)), "outer_batch batch group d_model"
        )
        routing = SwitchRouter().route(
            x,
            mtf.Dimension("expert_unsplit", 2),
            2,
            mtf.VariableDType(tf.float32),
            train=False,
        )
        kernel = x.graph.trainable_variables[0].outputs[0]
        assert mtf.gradients([mtf.reduce_sum(routing.sums)], [x, kernel]) == [None, None]
        return routing.sums

    mesh_harness.evaluate(build)


# ---- the microbatch loop

# Four microbatches of two rows; a group is a row, so the groups are the same in any split.
BATCH, LENGTH, MODEL, EXPERTS, HIDDEN = 8, 6, 4, 4, 5
CAPACITY = ExpertCapacity(0.75, min_expert_capacity=1, group_size=LENGTH)


class TwoLayers:
    """Two Switch layers, one after the other, with their own names."""

    names = ("block_000/layer_001", "block_001/layer_001")

    def __init__(self, jitter=0.0, dispatch="auto"):
        router = SwitchRouter(exploration=Exploration(jitter=jitter))
        self._layers = [
            SwitchFFN(EXPERTS, HIDDEN, capacity=CAPACITY, router=router, dispatch=dispatch)
            for _ in self.names
        ]

    def call(self, context, x):
        for name, layer in zip(self.names, self._layers):
            context.current_layer = mesh_harness.NamedLayer()
            context.current_layer.name = name
            with tf.variable_scope(name):
                x += layer.call(context, x)
        return x


def draw():
    """x [BATCH, LENGTH, MODEL], nonpadding and the variables of TwoLayers."""
    rng = np.random.default_rng(5)
    weights = [oracle.Weights.draw(rng, MODEL, EXPERTS, HIDDEN) for _ in TwoLayers.names]
    variables = {
        f"{layer}/{name}": value
        for layer, own in zip(TwoLayers.names, weights)
        for name, value in own.variables().items()
    }
    x = oracle.tokens_with_clear_choices(rng, (BATCH, LENGTH, MODEL), weights[0].w_r, skew=0.3)
    # Every row has the same number of tokens, because the loss is a mean over groups, and its
    # record is multiplied by the tokens.
    nonpadding = np.ones((BATCH, LENGTH), int)
    nonpadding[np.arange(BATCH), rng.integers(0, LENGTH, BATCH)] = 0
    return x, nonpadding, variables


def step(x, nonpadding, variables, splits, *, devices=1, jitter=0.0, dispatch="auto"):
    """One training step in `splits` microbatches: loss, gradients and metrics."""
    layout = "batch:all,experts:all"

    def build(mesh):
        def model_fn(features):
            tokens = features["x"]
            model = mesh_harness.FakeModel(
                tokens.shape.dims[-1],
                mtf.convert_to_layout_rules(layout),
                mtf.convert_to_shape(f"all:{devices}"),
            )
            context = mesh_harness.make_context(
                mesh,
                tokens.shape.dims,
                sequence_id=features["ids"],
                num_microbatches=splits,
                model=model,
            )
            y = TwoLayers(jitter, dispatch).call(context, tokens)
            # As large as the outputs, so that their share of the gradients counts.
            losses = [loss * 1000.0 for loss in context.losses]
            loss = mtf.add_n([mtf.reduce_sum(mtf.square(y)), *losses])
            return {"loss": loss, "y": y, **recorded_sums.take(mesh.graph)}

        features = {
            "x": mesh_harness.constant(mesh, x, "batch length d_model"),
            "ids": mesh_harness.constant(mesh, nonpadding, "batch length", tf.int32),
        }
        if splits == 1:
            outputs = model_fn(features)
            kernels = [v.outputs[0] for v in mesh.graph.trainable_variables]
            grads = mtf.gradients([outputs["loss"]], kernels)
        else:
            batch = features["x"].shape.dims[0]
            grads, outputs = mtf.serialize_training_step(features, model_fn, batch, splits)
        names = [v.name for v in mesh.graph.trainable_variables]
        results = {name: outputs.pop(name) for name in ("loss", "y")}
        for name, sums in outputs.items():
            recorded_sums.record(name, sums)
        return {**results, "grads": dict(zip(names, grads))}

    return mesh_harness.evaluate(
        build, variables=variables, devices=devices, layout=layout, trace=True
    )


@pytest.fixture(scope="module")
def unsplit():
    return step(*draw(), splits=1)


@pytest.mark.parametrize(
    ("splits", "devices", "dispatch"),
    [
        (4, 1, "einsum"),
        (2, 2, "gather"),
        (4, 1, "sort"),
        pytest.param(2, 1, "sort", marks=pytest.mark.slow),
        pytest.param(2, 4, "einsum", marks=pytest.mark.slow),
        pytest.param(2, 4, "gather", marks=pytest.mark.slow),
    ],
)
def test_a_step_in_microbatches_equals_the_whole_one(unsplit, splits, devices, dispatch):
    split = step(*draw(), splits=splits, devices=devices, dispatch=dispatch)
    assert len({device for device, ops in split["ops_run"].items() if ops}) == devices
    # Float32 sums in another order.
    np.testing.assert_allclose(split["value"]["loss"], unsplit["value"]["loss"], rtol=1e-5)
    np.testing.assert_allclose(split["value"]["y"], unsplit["value"]["y"], rtol=1e-4, atol=1e-5)
    assert len(unsplit["value"]["grads"]) == 6
    for name, grad in unsplit["value"]["grads"].items():
        scale = np.abs(grad).max()
        np.testing.assert_allclose(
            split["value"]["grads"][name], grad, rtol=1e-4, atol=1e-5 * scale, err_msg=name
        )
    assert list(split["metrics"]) == [f"encoder/{name}" for name in TwoLayers.names]
    for layer, sums in unsplit["metrics"].items():
        np.testing.assert_allclose(split["metrics"][layer], sums, rtol=1e-5, err_msg=layer)


def test_metrics_of_microbatches_are_the_sum_of_those_run_one_by_one(unsplit):
    x, nonpadding, variables = draw()
    split = step(x, nonpadding, variables, splits=4)
    # Mesh TF gives microbatch i the rows i, i + 4, ...
    alone = [step(x[i::4], nonpadding[i::4], variables, splits=1)["metrics"] for i in range(4)]
    for layer, sums in split["metrics"].items():
        total = sum(metrics[layer] for metrics in alone)
        np.testing.assert_allclose(sums, total, rtol=1e-5, err_msg=layer)
        metrics = RouterMetrics.from_sums(sums)
        assert metrics.tokens == nonpadding.sum()
        assert 0 < metrics.dropped_fraction < 1
        assert metrics.expert_load.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(unsplit["metrics"][layer], sums, rtol=1e-5)


def test_layers_of_one_stack_are_recorded_each_by_its_name_and_in_order(unsplit):
    x, nonpadding, variables = draw()
    assert list(unsplit["metrics"]) == [f"encoder/{name}" for name in TwoLayers.names]
    first = oracle.route(
        x, variables["block_000/layer_001/switch_gating/kernel"], 1, nonpadding
    )
    counts = unsplit["metrics"]["encoder/block_000/layer_001"][6 : 6 + EXPERTS]
    np.testing.assert_array_equal(
        counts, [(first.expert_index == e).sum() for e in range(EXPERTS)]
    )
