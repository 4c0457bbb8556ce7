"""Faults of other implementations do not happen here: the rows of docs/lessons.md.

A test is named by the number of its row. The rows about the layer are tested here;
docs/lessons.md names the tests of the others.
"""

import mesh_harness
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
from alternate import alternate
from small_layer import E, F, M, draw

from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.router_metrics import RouterMetrics
from mtf_switch.layers.switch_ffn import SwitchFFN

LAYER = "encoder/block_000/layer_001"


def run(
    x,
    weights,
    capacity=None,
    jitter=0.0,
    differentiate=False,
    dispatch="auto",
    on_tpu=False,
    **kwargs,
):
    def make_layer():
        layer = SwitchFFN(
            E,
            F,
            capacity=capacity or ExpertCapacity(E, E),
            router=SwitchRouter(exploration=Exploration(jitter=jitter)),
            dispatch=dispatch,
        )
        layer.set_target(on_tpu=on_tpu)
        return layer

    return mesh_harness.run_layer(
        make_layer,
        x,
        variables=weights.variables(),
        differentiate=differentiate,
        **kwargs,
    )


def token_by_token(x, weights):
    """Returns the output of each token's own expert, regardless of other tokens: like x."""
    flat = x.reshape(-1, 1, M)
    return oracle.switch_layer(flat, weights.w_r, weights.wi, weights.wo, capacity=1).y.reshape(
        x.shape
    )


def test_lesson_1_capacity_has_an_effect():
    # 32 tokens that all choose one expert, 32 / 4 = 8 slots at a factor of 1.
    x, weights = draw(4, 8, skew=0.95)
    for factor, kept in ((0.5, 4), (1.0, 8), (2.0, 16), (4.0, 32)):
        outcome = run(x, weights, ExpertCapacity(factor))
        assert outcome.routing["kept"].sum() == kept
        assert np.count_nonzero(np.abs(outcome.y).sum(-1)) == kept
        dropped = RouterMetrics.from_sums(outcome.metrics[LAYER]).dropped_fraction
        assert dropped == pytest.approx(1 - kept / 32)


@pytest.mark.parametrize("dispatch", ["einsum", "gather"])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_lesson_2_experts_see_bit_for_bit_the_same_with_jitter_on_and_off(dtype, dispatch):
    # Room for all, and tokens in an expert's slots in their order: with so much jitter that
    # choices change, compare the tokens that did not change theirs.
    x, weights = draw(4, 8)

    def given(jitter):
        outcome = run(
            x,
            weights,
            jitter=jitter,
            activation_dtype=dtype,
            dispatch=dispatch,
            on_tpu=True,  # so that there are slots
            fetch=lambda graph: {"slots": mesh_harness.multiplied_with(graph, "wi/kernel")[0]},
        )
        index = outcome.routing["expert_index"].ravel()
        rank = outcome.routing["position_in_expert"].ravel()
        return outcome.fetched["slots"][0, index, 0, rank], index

    (plain, choice), (jittered, choice_of_jittered) = given(0.0), given(0.5)
    assert (choice != choice_of_jittered).any()
    np.testing.assert_array_equal(plain, jittered)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_lesson_3_a_dropped_tokens_output_is_exactly_0(dtype):
    x, weights = draw(4, 8, skew=0.6)
    outcome = run(x, weights, ExpertCapacity(0.5), activation_dtype=dtype)
    kept = outcome.routing["kept"].reshape(4, 8) == 1
    assert 0 < kept.sum() < 32
    np.testing.assert_array_equal(outcome.y[~kept], 0.0)
    # An expert whose ReLU is shut gives zeros, too.
    speaks = np.abs(token_by_token(x, weights)[kept]).max(-1) > 0
    assert speaks.sum() > 5
    np.testing.assert_array_equal(np.abs(outcome.y[kept]).max(-1) > 0, speaks)


SHAPES = [
    {"batch": 3, "length": 4},
    {"batch": 4, "length": 3},
    {"batch": 2, "beam": 3, "length": 2},
    {"outer_batch": 2, "batch": 3, "length": 4},
]


# Groups within a row, of a row, across rows.
@pytest.mark.parametrize(("shape", "group_size"), alternate(SHAPES, [3, None, 4, 12, 6]))
def test_lesson_4_no_transpose_gets_tokens_mixed_up(shape, group_size):
    # Where nothing is dropped, grouping does not matter: a token's output is its own.
    x, weights = draw(*shape.values())
    capacity = ExpertCapacity(E, E, group_size=group_size)
    outcome = run(x, weights, capacity, dims=tuple(shape))
    np.testing.assert_allclose(outcome.y, token_by_token(x, weights), rtol=1e-5, atol=1e-5)
    assert outcome.metrics[LAYER][1] == 0


def test_lesson_5_the_balance_loss_is_taken_per_layer_and_then_summed():
    # One layer sends all to one expert, the other all to another: pooled, they would look
    # half as unbalanced as they are.
    x = np.abs(draw(2, 8)[0])
    one_sided = [np.zeros((M, E)) for _ in range(2)]
    one_sided[0][:, 0] = one_sided[1][:, 1] = 100.0

    class TwoLayers:
        def call(self, context, inputs):
            outputs = 0
            for name in ("first", "second"):
                with tf.variable_scope(name):
                    ffn = SwitchFFN(
                        E, F, router=SwitchRouter(exploration=Exploration("argmax"))
                    )
                    outputs += ffn.call(context, inputs)
            return outputs

    outcome = mesh_harness.run_layer(
        TwoLayers,
        x,
        variables={
            "first/switch_gating/kernel": one_sided[0],
            "second/switch_gating/kernel": one_sided[1],
        },
        differentiate=False,
    )
    # All for certain to one expert: E each.
    np.testing.assert_allclose(outcome.losses, [0.01 * E, 0.01 * E], rtol=1e-5)


def test_lesson_6_padding_is_not_counted_in_the_balance_loss_unless_as_upstream():
    x, weights = draw(2, 8)
    nonpadding = np.ones((2, 8), int)
    nonpadding[:, 5:] = 0
    pinned = ExpertCapacity(E, E, group_size=8)
    masked = run(x, weights, pinned, nonpadding=nonpadding)
    # As if the padding were not there at all.
    cut = run(x[:, :5], weights, ExpertCapacity(E, E, group_size=5))
    np.testing.assert_allclose(masked.losses, cut.losses, rtol=1e-5)
    # The content of the padding does not matter.
    other = x.copy()
    other[:, 5:] = 7.0
    np.testing.assert_array_equal(
        masked.losses, run(other, weights, pinned, nonpadding=nonpadding).losses
    )
    (upstream,) = mesh_harness.run_layer(
        lambda: SwitchFFN(
            E,
            F,
            capacity=pinned,
            router=SwitchRouter(exploration=Exploration("argmax"), padding="upstream"),
        ),
        x,
        nonpadding=nonpadding,
        variables=weights.variables(),
    ).losses
    probs = oracle.route(x, weights.w_r, 8).probs
    np.testing.assert_allclose(
        upstream, 0.01 * oracle.load_balance_loss(probs, nonpadding, "upstream"), rtol=1e-5
    )


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_lesson_7_the_balance_loss_is_on_without_a_flag_and_recorded(mode):
    x, weights = draw(2, 8)
    outcome = mesh_harness.run_layer(
        lambda: SwitchFFN(E, F), x, mode=mode, variables=weights.variables()
    )
    (loss,) = outcome.losses
    assert loss >= 0.01 * 0.5
    recorded = RouterMetrics.from_sums(outcome.metrics[LAYER]).aux_loss
    np.testing.assert_allclose(recorded, loss, rtol=1e-6)
    # And it trains the router, also where the outputs do not.
    silent = run(x, weights, differentiate=True, dy=np.zeros_like(x))
    assert np.abs(silent.grads["switch_gating/kernel"]).max() > 1e-5


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_lesson_8_outputs_and_losses_have_the_dtype_of_the_activations(dtype):
    # Each boundary within the layer: switch_ffn_precision_test.test_dtypes_at_every_boundary.
    dtypes = []

    class Watched(SwitchFFN):
        def call(self, context, x, losses=None):
            y = super().call(context, x, losses)
            dtypes.extend([x.dtype, y.dtype, *(loss.dtype for loss in context.losses)])
            return y

    x, weights = draw(2, 4)
    mesh_harness.run_layer(
        lambda: Watched(E, F), x, activation_dtype=dtype, variables=weights.variables()
    )
    assert dtypes == [dtype] * 3


@pytest.mark.parametrize("dispatch", ["einsum", "gather"])
@pytest.mark.parametrize("devices", [1, 2])
def test_lesson_13_every_tensor_of_a_tpus_graph_has_a_static_shape(devices, dispatch):
    x, weights = draw(2, 8)
    outcome = run(
        x,
        weights,
        jitter=0.01,
        differentiate=True,
        nonpadding=np.ones((2, 8), int),
        devices=devices,
        dispatch=dispatch,
        on_tpu=True,
    )
    tensors = [t for op in outcome.tf_graph.get_operations() for t in op.outputs]
    assert len(tensors) > 300
    assert [t for t in tensors if not t.shape.is_fully_defined()] == []


@pytest.mark.parametrize("dims", [("batch",), ("batch", "beam"), ("batch", "length")])
def test_lesson_14_decoding_drops_no_token_even_if_all_choose_one_expert(dims):
    shape = (16, 4)[: len(dims)]
    x, weights = draw(*shape, skew=0.95)
    tight = ExpertCapacity(0.1, 0.1, 1, group_size=4)
    evaluated = run(x, weights, tight, dims=dims, mode="eval")
    assert evaluated.routing["kept"].mean() < 0.5
    decoded = run(x, weights, tight, dims=dims, mode="incremental")
    assert len(np.unique(decoded.routing["expert_index"])) == 1
    assert decoded.routing["kept"].all()
    np.testing.assert_allclose(decoded.y, token_by_token(x, weights), rtol=1e-5, atol=1e-5)


def test_lesson_14_variables_do_not_depend_on_the_mesh_or_the_groups():
    x, _ = draw(8, 4)
    shapes = []
    for devices, group_size in ((1, None), (1, 4), (2, None), (4, 8)):
        outcome = mesh_harness.run_layer(
            lambda size=group_size: SwitchFFN(E, F, capacity=ExpertCapacity(group_size=size)),
            x,
            devices=devices,
            differentiate=False,
        )
        shapes.append({name: value.shape for name, value in outcome.variables.items()})
    assert shapes[0] == {
        "switch_gating/kernel": (M, E),
        "wi/kernel": (E, M, F),
        "wo/kernel": (E, F, M),
    }
    assert shapes == [shapes[0]] * len(shapes)


def test_lesson_14_a_layer_trained_on_one_mesh_gives_the_same_outputs_on_another():
    x, weights = draw(8, 4)
    outputs = [run(x, weights, devices=devices).y for devices in (1, 4)]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)
