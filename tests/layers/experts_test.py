"""The networks of the experts, on slots and on sorted tokens, against a loop over tokens."""

import functools
import itertools

import gin
import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given
from hypothesis import strategies as st

from mtf_switch.layers import experts
from mtf_switch.layers.experts import Experts

E, M, F = 4, 3, 5
ROWS = "outer_batch batch group d_model"
DROPOUT = 0.5


def run_runs(
    x, expert_of_token, weights, activations, dtype=tf.float32, dropout=0.0, number=E, dy=None
):
    """apply_to_sorted on rows x [1, 1, T, M], and the gradients of sum(y * dy)."""

    def build(mesh):
        rows = mesh_harness.constant(mesh, x, ROWS, dtype)
        index = mesh_harness.constant(mesh, expert_of_token, ROWS.rsplit(" ", 1)[0], tf.int32)
        context = mesh_harness.make_context(mesh, rows.shape.dims, activation_dtype=dtype)
        dim = mtf.Dimension("experts", number)
        y = Experts(dim, F, activations, dropout).apply_to_sorted(context, rows, index)
        assert y.dtype == dtype
        dys = mesh_harness.constant(mesh, np.ones(x.shape) if dy is None else dy, ROWS)
        objective = mtf.reduce_sum(mtf.cast(y, tf.float32) * dys)
        variables = mesh.graph.trainable_variables
        grads = mtf.gradients([objective], [rows, *(v.outputs[0] for v in variables)])
        return {"y": y, "grads": dict(zip(["x", *(v.name for v in variables)], grads))}

    variables = {n: v for n, v in weights.variables().items() if n.startswith("w")}
    return mesh_harness.evaluate(build, variables=variables)["value"]


def token_by_token(x, expert_of_row, weights, activations):
    """x [T, M] of rows in order; zeros where the expert is E."""
    y = np.zeros_like(x)
    for t, e in enumerate(expert_of_row):
        if e < len(weights.wo):
            wi = [w[e] for w in weights.wi]
            y[t] = oracle.expert(x[t], wi, weights.wo[e], activations)
    return y


@given(
    lengths=st.lists(st.sampled_from([0, 0, 1, 2, 7]), min_size=E + 1, max_size=E + 1).filter(
        any
    ),
    activations=st.sampled_from(
        [("relu",), ("gelu",), ("gelu", "linear"), ("swish",), ("sigmoid", "tanh")]
    ),
    seed=st.integers(0, 99),
)
def test_each_run_goes_through_its_expert(lengths, activations, seed):
    rng = np.random.default_rng(seed)
    weights = oracle.Weights.draw(rng, M, E, F, len(activations))
    expert_of_row = np.repeat(np.arange(E + 1), lengths)
    x, dy = rng.standard_normal((2, expert_of_row.size, M))
    # The order of the tokens does not matter, only their number for each expert.
    expert_of_token = rng.permutation(expert_of_row)
    value = run_runs(
        x[None, None], expert_of_token[None, None], weights, activations, dy=dy[None, None]
    )
    expected = token_by_token(x, expert_of_row, weights, activations)
    np.testing.assert_allclose(value["y"][0, 0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(value["y"][0, 0][expert_of_row == E], 0.0)
    np.testing.assert_array_equal(value["grads"]["x"][0, 0][expert_of_row == E], 0.0)
    # The gradient of an expert without tokens is exactly zero.
    for name, grad in value["grads"].items():
        if name != "x":
            np.testing.assert_array_equal(grad[np.array(lengths[:E]) == 0], 0.0, err_msg=name)
    # Along a random direction the loss rises as the gradients say: central differences in
    # float64 are exact to step^2, and ReLU's corner is seldom met.
    if activations != ("relu",):
        direction = rng.standard_normal(x.shape)
        step = 1e-4
        ends = [
            (token_by_token(x + s * direction, expert_of_row, weights, activations) * dy).sum()
            for s in (step, -step)
        ]
        slope = (value["grads"]["x"][0, 0] * direction).sum()
        np.testing.assert_allclose(
            slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-3, atol=1e-4
        )


def both(rng, activations, dtype=tf.float32, mode="train", rate=0.0):
    """Outputs and gradients of a group whose experts have C tokens each: in slots, and sorted."""
    capacity = 6
    weights = oracle.Weights.draw(rng, M, E, F, len(activations))
    x, dy = rng.standard_normal((2, E * capacity, M))

    def build(mesh, by_runs):
        dims = ROWS if by_runs else "outer_batch experts batch_unsplit expert_capacity d_model"
        shape = (1, 1, E * capacity, M) if by_runs else (1, E, 1, capacity, M)
        inputs, dys = (
            mesh_harness.constant(mesh, a.reshape(shape), dims, dtype) for a in (x, dy)
        )
        context = mesh_harness.make_context(
            mesh, inputs.shape.dims, mode=mode, activation_dtype=dtype
        )
        networks = Experts(mtf.Dimension("experts", E), F, activations, rate)
        if by_runs:
            index = np.repeat(np.arange(E), capacity).reshape(1, 1, -1)
            index = mesh_harness.constant(mesh, index, "outer_batch batch group", tf.int32)
            y = networks.apply_to_sorted(context, inputs, index)
        else:
            y = networks.apply_to_slots(context, inputs)
        variables = mesh.graph.trainable_variables
        grads = mtf.gradients(
            [mtf.reduce_sum(y * dys)], [inputs, *(v.outputs[0] for v in variables)]
        )
        return {"y": y, "grads": dict(zip(["x", *(v.name for v in variables)], grads))}

    values = weights.variables()
    values = {name: value for name, value in values.items() if name.startswith("w")}
    return [
        mesh_harness.evaluate(functools.partial(build, by_runs=by_runs), variables=values)[
            "value"
        ]
        for by_runs in (False, True)
    ]


# Activations, dtype, whether unit scaling is on, and whether kernels count as large.
AGREEMENT = list(
    itertools.product(
        [("relu",), ("gelu", "linear"), ("swish",)],
        [tf.float32, tf.bfloat16],
        [False, True],
        [False, True],
    )
)
# Every value of each parameter, and both sizes of kernels in both dtypes.
FAST_AGREEMENT = [
    (("relu",), tf.float32, False, False),
    (("gelu", "linear"), tf.float32, False, True),
    (("gelu", "linear"), tf.bfloat16, False, False),
    (("swish",), tf.bfloat16, True, True),
]


@pytest.mark.parametrize(
    ("activations", "dtype", "unit_scaling", "large"),
    [
        pytest.param(*case, marks=() if case in FAST_AGREEMENT else pytest.mark.slow)
        for case in AGREEMENT
    ],
)
def test_slots_and_runs_agree_in_outputs_and_all_gradients(
    activations, dtype, unit_scaling, large, monkeypatch
):
    # The products differ with the size of a kernel, here 15 weights.
    monkeypatch.setattr(experts, "_LARGE_KERNEL", 15 if large else 16)
    gin.bind_parameter("unit_scaling_convention.value", unit_scaling)
    slots, runs = both(np.random.default_rng(0), activations, dtype)
    # Sums of a few terms of the order of 1, in 24 bits or in 8.
    tolerance = 1e-5 if dtype == tf.float32 else 0.05
    assert slots["grads"].keys() == runs["grads"].keys()
    pairs = [(slots["y"], runs["y"])]
    pairs += [(grad, runs["grads"][name]) for name, grad in slots["grads"].items()]
    for one, other in pairs:
        scale = np.abs(one).max()
        np.testing.assert_allclose(
            one.ravel(), other.ravel(), rtol=tolerance, atol=tolerance * scale
        )


@pytest.mark.parametrize(
    ("shape", "batches"), [((512, 512), 0), ((640, 512), 0), ((512, 640), 1), ((64, 128), 0)]
)
def test_only_a_large_kernel_with_more_columns_than_rows_needs_a_batch_of_one(shape, batches):
    with tf.Graph().as_default() as graph:
        rows = tf.ones([3, shape[0]])
        tf.gradients(experts._multiply_rows(rows, tf.ones(shape)), [rows])
        products = [op.type for op in graph.get_operations() if "MatMul" in op.type]
    assert len(products) == 3
    assert products.count("BatchMatMulV2") == batches


def test_unit_scaling_divides_each_kernel_by_the_root_of_its_fan_in():
    rng = np.random.default_rng(0)
    weights = oracle.Weights.draw(rng, M, E, F, 2)
    x, expert_of_token = rng.standard_normal((1, 1, 8, M)), np.repeat(np.arange(E), 2)
    scaled = oracle.Weights(
        weights.w_r, tuple(w / np.sqrt(M) for w in weights.wi), weights.wo / np.sqrt(F)
    )
    activations = ("gelu", "linear")
    expected = token_by_token(x[0, 0], expert_of_token, scaled, activations)
    gin.bind_parameter("unit_scaling_convention.value", True)
    value = run_runs(x, expert_of_token[None, None], weights, activations)
    np.testing.assert_allclose(value["y"][0, 0], expected, rtol=1e-5, atol=1e-6)


def test_dropout_of_runs_drops_whole_hidden_units_scales_the_rest_and_is_off_in_evaluation():
    x = np.ones((1, 1, 400, M))
    index = np.zeros((1, 1, 400), int)
    # One hidden unit passes on the first of M inputs: an output is 0 or 1 / (1 - rate).
    wi, wo = np.zeros((1, M, F)), np.zeros((1, F, M))
    wi[0, 0, 0] = wo[0, 0, 0] = 1.0
    weights = oracle.Weights(np.zeros((M, 1)), (wi,), wo)
    value = run_runs(x, index, weights, ("relu",), dropout=DROPOUT, number=1)
    outputs = value["y"][0, 0, :, 0]
    np.testing.assert_array_equal(np.unique(outputs), [0.0, 1 / (1 - DROPOUT)])
    # 400 draws: a standard deviation of 0.025.
    assert abs((outputs == 0).mean() - DROPOUT) < 0.1
    # The gradient passes through the units that were kept.
    passed = value["grads"]["x"][0, 0, :, 0] > 0
    np.testing.assert_array_equal(passed, outputs > 0)
    _, evaluated = both(np.random.default_rng(0), ("relu",), mode="eval", rate=DROPOUT)
    _, plain = both(np.random.default_rng(0), ("relu",), mode="eval")
    np.testing.assert_array_equal(evaluated["y"], plain["y"])


def test_an_activation_that_runs_do_not_know_goes_by_slots():
    dim = mtf.Dimension("experts", E)
    assert Experts(dim, F, ("relu", "linear"), 0.0).can_apply_to_sorted
    assert not Experts(dim, F, ("relu", "softplus"), 0.0).can_apply_to_sorted
