"""The layer inside Mesh TF's real Transformer, and the checks made before it is built."""

from __future__ import annotations

import pytest

from mtf_switch import model, train_log
from mtf_switch.errors import UserError
from mtf_switch.switch_ffn import SwitchFFN

QUIET = {
    "SwitchRouter.input_jitter": "0.0",
    "dropout_rate": "0.0",
    "SwitchFFN.expert_dropout_rate": "0.0",
}


def _first_step(tiny, folder, params):
    """The loss and dropped share of a first training step; the tiny batch is 8."""
    result = tiny.train(folder, "--steps=1", params={**QUIET, **params})
    assert result.code == 0, result.err
    return train_log.read(str(folder))[0]


def _build(tiny, params):
    settings, vocabulary = tiny.parse(params=params)
    return model.build(settings, vocabulary)


ONE_BLOCK = {"transformer.make_layer_stack.num_layers": "1"}


def test_sparse_layers_stand_where_dense_ones_did_in_both_stacks(tiny):
    built = _build(tiny, ONE_BLOCK)
    kinds = [
        [type(layer).__name__ for layer in stack.layer_stack.layers]
        for stack in model.stacks(built)
    ]
    assert kinds == [
        ["SelfAttention", "DenseReluDense", "SelfAttention", "SwitchFFN"],
        [
            *("SelfAttention", "EncDecAttention", "DenseReluDense"),
            *("SelfAttention", "EncDecAttention", "SwitchFFN"),
        ],
    ]


def test_encoder_and_decoder_can_be_configured_apart(tiny):
    built = _build(tiny, {"decoder/ExpertCapacity.group_size": "32"})
    encoder, decoder = (model.switch_layers(stack)[0] for stack in model.stacks(built))
    assert encoder.capacity.group_size == 64
    assert decoder.capacity.group_size == 32


@pytest.mark.parametrize(
    "layers",
    [
        "[@transformer_layers.SelfAttention, [@transformer_layers.DenseReluDense, @SwitchFFN]]",
        "[@transformer_layers.SelfAttention, ['name', [@SwitchFFN]]]",
        "[@transformer_layers.SelfAttention, []]",
    ],
)
def test_nested_lists_of_layers_are_refused(tiny, layers):
    with pytest.raises(UserError, match=r"encoder/make_layer_stack.layers\[1\] is a list"):
        _build(tiny, {"encoder/transformer.make_layer_stack.layers": layers})


def test_a_layer_with_a_name_and_parameters_is_no_nested_list(tiny):
    layers = "[@transformer_layers.SelfAttention, [@SwitchFFN, 'sparse', {'num_experts': 2}]]"
    built = _build(tiny, {**ONE_BLOCK, "encoder/transformer.make_layer_stack.layers": layers})
    sparse = model.switch_layers(next(model.stacks(built)))
    assert [(layer.name, layer.num_experts) for layer in sparse] == [("block_000/sparse", 2)]


def test_experts_that_do_not_divide_over_their_cores_are_refused(tiny):
    mesh = {
        "num_experts": "6",
        "utils.run.mesh_shape": "'all:4'",
        "utils.run.layout_rules": "'batch:all,experts:all'",
    }
    with pytest.raises(
        UserError, match=r"num_experts = 6 does not divide over the 4 cores.*4 and 8"
    ):
        _build(tiny, mesh)


def test_a_group_size_that_does_not_divide_is_refused_with_the_stack_and_the_nearest(tiny):
    # 8 x 16 target tokens; 8 x 32 input tokens divide by 64.
    with pytest.raises(
        UserError, match=r"decoder/block_000/layer_005: .*48 does not divide.* 128"
    ):
        _build(tiny, {"decoder/ExpertCapacity.group_size": "48"})


def test_a_capacity_below_one_is_refused(tiny):
    none = {
        "ExpertCapacity.min_expert_capacity": "0",
        "ExpertCapacity.group_size": "4",
        "ExpertCapacity.capacity_factor_train": "0.5",
    }
    with pytest.raises(
        UserError, match="The expert capacity is below 1: groups of 4 tokens / 4"
    ):
        _build(tiny, none)


def test_an_ensemble_is_refused(tiny, tmp_path):
    result = tiny.train(tmp_path / "m", "--steps=1", params={"Unitransformer.ensemble": "2"})
    assert result.code == 1
    assert "SwitchFFN does not work with Unitransformer.ensemble" in result.err


def test_microbatches_give_the_loss_and_the_routing_of_the_whole_batch(tiny, trained, tmp_path):
    # The same weights: initial ones depend on the order in which a graph is built.
    start = {
        "utils.run.init_checkpoint": repr(str(trained / "model.ckpt-6")),
        "ExpertCapacity.group_size": "16",
    }
    # 64 tokens of input are 2 of 8 sequences: 4 microbatches.
    parts = {"utils.serialize_num_microbatches.tokens_per_microbatch_per_replica": "64"}
    logged = []
    for name, params in (("whole", start), ("parts", {**start, **parts})):
        result = tiny.train(tmp_path / name, "--steps=7", params={**QUIET, **params})
        assert result.code == 0, result.err
        logged.append(train_log.read(str(tmp_path / name))[0])
    # Float32 sums in another order.
    assert logged[1].loss == pytest.approx(logged[0].loss, abs=2e-5)
    assert logged[1].dropped_fraction == logged[0].dropped_fraction


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({"mesh_train_dataset_fn.pack": "True"}, id="packed"),
        pytest.param(
            {
                "SwitchFFN.activation": "['gelu', 'linear']",
                "DenseReluDense.activation": "['gelu', 'linear']",
            },
            id="gated",
        ),
        pytest.param(
            {"utils.get_variable_dtype.activation_dtype": "'bfloat16'"}, id="bfloat16"
        ),
    ],
)
def test_training_works_packed_gated_and_in_bfloat16(tiny, tmp_path, params):
    step = _first_step(tiny, tmp_path / "m", params)
    # An untrained model's cross-entropy is near ln(400 ids) = 6.0, and some 60% of the target
    # positions are tokens; the loss is the mean over all of them.
    assert 2.5 < step.loss < 5.5
    assert 0.0 <= step.dropped_fraction < 1.0


def test_a_layer_without_experts_is_refused():
    with pytest.raises(UserError, match=r"num_experts is 0, but it is at least 1"):
        SwitchFFN(num_experts=0)


def test_the_defaults_make_no_microbatches(tiny):
    settings, _ = tiny.parse()
    from mesh_tensorflow.transformer import utils

    big = utils.serialize_num_microbatches(
        type("Dimension", (), {"size": 4096, "name": "batch"})(),
        {"inputs": 512, "targets": 114},
        settings.mesh_shape,
        settings.layout_rules,
    )
    assert big == 1
