"""Settings of the layer: defaults, refused values, and the dispatch that they select."""

from __future__ import annotations

import math

import gin
import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import oracle
import pytest
from ffn_case import Case
from routing import DISPATCHES

from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity, InferenceCapacity
from mtf_switch.layers.switch_ffn import SwitchFFN


def test_expert_dropout_acts_on_hidden_units_in_training_only():
    case = Case(factor=3.0, hidden=400)
    x, _, weights = case.draw()
    # All hidden units of a token are equal, so its output shows the dropped share.
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
    # Kept units are scaled up by 1 / 0.6; with 400 units the spread is about 0.04.
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
    with pytest.raises(
        UserError, match="num_experts is 0, but it must be a whole number of at least 1"
    ):
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
        ("auto", False, 1, "sort"),
        ("auto", False, 2, "slots by index"),
        ("sort", False, 1, "sort"),
        ("gather", False, 1, "sort"),
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
    ways = {"permute": "sort", "move": "slots by index"}
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
    case = Case(activations=("softplus",), dispatch="einsum")
    x, _, weights = case.draw()

    def run(method):
        def make_layer():
            layer = case.layer()
            layer.dispatch_method = method
            return layer

        return mesh_harness.run_layer(
            make_layer, x, variables=weights.variables(), differentiate=False
        ).y

    outputs = [run(method) for method in ("einsum", "gather", "auto")]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-6)
    np.testing.assert_array_equal(outputs[2], outputs[1])


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_only_the_papers_dispatch_has_a_tensor_of_tokens_by_slots(dispatch):
    # 64 tokens, 8 experts with 16 slots each: 8,192 numbers. The largest other tensors: slots
    # by hidden units, 8 x 16 x 8, forward and backward.
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


def test_while_decoding_all_tokens_are_one_group_for_every_group_size():
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


@pytest.mark.parametrize(
    ("mode", "kept"), [("train", 2), ("eval", 4), ("first_part", 4), ("incremental", 8)]
)
def test_the_capacity_is_that_of_the_mode(mode, kept):
    # 8 equal tokens go to one of 2 experts: 8 / 2 x 0.5 slots in training, x 1 elsewhere.
    outcome = mesh_harness.run_layer(
        lambda: SwitchFFN(2, 3, capacity=ExpertCapacity(0.5, 1.0, 1)),
        np.ones((8, 4)),
        dims=("batch",),
        mode=mode,
        differentiate=False,
    )
    assert outcome.routing["kept"].sum() == kept


@pytest.mark.parametrize(
    ("factor", "algorithm", "slots"),
    [
        # 64 tokens, 8 experts: 8 tokens each x 2 in evaluation.
        (None, "sort", 64),
        (None, "gather", 64),
        (None, "einsum", 16),
        (1.0, "sort", 8),
        (1.0, "einsum", 8),
        (math.inf, "einsum", 64),
    ],
)
def test_to_predict_every_token_has_a_slot_but_with_one_hot_products(factor, algorithm, slots):
    layer = SwitchFFN(8, 3, capacity=ExpertCapacity(1.25, 2.0))
    assert layer.expert_capacity(algorithm, 64, "eval") == 16
    layer.set_target(on_tpu=False, inference=InferenceCapacity(factor))
    assert layer.expert_capacity(algorithm, 64, "eval") == slots
    assert layer.expert_capacity(algorithm, 64, "train") == 10
    assert layer.expert_capacity(algorithm, 64, "decode") == 64


@pytest.mark.parametrize(("factor", "slots"), [(None, 262_144), (2.0, 4_096)])
def test_room_for_all_tokens_has_the_slots_that_the_page_of_predict_states(factor, slots):
    """docs/predict.md, for groups of 2,048 tokens and 128 experts."""
    layer = SwitchFFN(128, 3)
    layer.set_target(on_tpu=False, compiled=True, inference=InferenceCapacity(factor))
    assert layer.resolve_dispatch(None) == "gather"
    assert 128 * layer.expert_capacity("gather", 2_048, "eval") == slots
