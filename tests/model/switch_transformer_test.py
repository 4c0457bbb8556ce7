"""The layer inside Mesh TF's real Transformer, and the checks before it is built."""

from __future__ import annotations

import types

import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from first_step import run_first_step
from mesh_tensorflow.transformer import transformer, utils
from packed_examples import NO_DROP, run_packed_and_alone
from tiny_run import EOS_ID, EXPERTS, SWITCH_LAYERS, TARGETS

from mtf_switch.config import bound_settings, gin_config
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import InferenceCapacity
from mtf_switch.layers.switch_ffn import SwitchFFN
from mtf_switch.model import switch_transformer
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl

LAYERS = "transformer.make_layer_stack.layers"


def _build(tiny, params):
    settings, vocabulary = tiny.parse(params=params)
    return switch_transformer.build(settings, vocabulary)


ONE_BLOCK = {"transformer.make_layer_stack.num_layers": "1"}


def test_sparse_layers_stand_where_dense_ones_did_in_both_stacks():
    lengths = "utils.run.sequence_length = {'inputs': 32, 'targets': 16}"
    bindings = ["MIXTURE_NAME = 'a_task'", "utils.run.batch_size = 8", lengths]
    bindings += [f"{name} = {value}" for name, value in ONE_BLOCK.items()]
    files = ["models/switch_tiny.gin", "sparsity/every_other_switch.gin"]
    gin_config.parse(files, bindings)
    sizes = types.SimpleNamespace(vocab_size=400)
    built = switch_transformer.build(bound_settings.read_settings(), sizes)
    kinds = [
        [type(layer).__name__ for layer in stack.layer_stack.layers]
        for stack in switch_transformer.stacks(built)
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
    encoder, decoder = (
        switch_transformer.switch_layers(stack)[0] for stack in switch_transformer.stacks(built)
    )
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


def test_a_layer_with_a_name_and_parameters_is_not_a_nested_list(tiny):
    layers = "[@transformer_layers.SelfAttention, [@SwitchFFN, 'sparse', {'num_experts': 2}]]"
    built = _build(tiny, {**ONE_BLOCK, "encoder/transformer.make_layer_stack.layers": layers})
    sparse = switch_transformer.switch_layers(next(switch_transformer.stacks(built)))
    assert [(layer.name, layer.num_experts) for layer in sparse] == [("block_000/sparse", 2)]


def test_experts_that_do_not_divide_over_their_cores_are_refused(tiny):
    mesh = {
        "num_experts": "6",
        "utils.run.mesh_shape": "'all:4'",
        "utils.run.layout_rules": "'batch:all,experts:all'",
    }
    with pytest.raises(
        UserError, match=r"'experts' of 6 over the 4 cores .*num_experts that work: 4 and 8"
    ):
        _build(tiny, mesh)


def test_a_group_size_that_does_not_divide_is_refused_with_the_stack_and_the_nearest(tiny):
    # 8 x 16 target tokens; 8 x 32 input tokens divide by 64.
    with pytest.raises(
        UserError, match=r"decoder/block_000/layer_002: .*48 does not divide.* 128"
    ):
        _build(tiny, {"decoder/ExpertCapacity.group_size": "48"})


def test_the_groups_of_a_delimited_lm_are_of_inputs_and_targets(tiny):
    # 8 x (32 + 16) tokens.
    params = {
        "utils.run.model_type": "'delimited_lm'",
        "transformer.make_layer_stack.layers": "[@transformer_layers.SelfAttention, @SwitchFFN]",
    }
    _build(tiny, {**params, "ExpertCapacity.group_size": "96"})
    with pytest.raises(UserError, match=r"group_size = 256 does not divide the 384 tokens"):
        _build(tiny, {**params, "ExpertCapacity.group_size": "256"})


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


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({"mesh_train_dataset_fn.pack": "True"}, id="packed"),
        pytest.param({"SwitchFFN.activation": "['gelu', 'linear']"}, id="gated"),
        pytest.param(
            {"utils.get_variable_dtype.activation_dtype": "'bfloat16'"}, id="bfloat16"
        ),
    ],
)
def test_training_works_packed_gated_and_in_bfloat16(tiny, params):
    loss, sums = run_first_step(tiny, params)
    # An untrained model's cross-entropy is near ln(400 ids) = 6.0, and some 60% of the target
    # positions are tokens; the loss is the mean over all of them.
    assert 2.5 < loss < 5.5
    assert sorted(sums) == list(SWITCH_LAYERS)
    for tokens, dropped, *_ in sums.values():
        assert 0.0 <= dropped < tokens


def test_a_layer_without_experts_is_refused():
    with pytest.raises(
        UserError, match=r"num_experts is 0, but it must be a whole number of at least 1"
    ):
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


ROUTERS = {
    "switch": {},
    "top-2": {"SwitchFFN.router": "@TopKRouter()", "TopKRouter.policy_train": "'all'"},
    "no token left behind": {
        "SwitchFFN.router": "@NoTokenLeftBehindRouter()",
        "NoTokenLeftBehindRouter.stages": "3",
    },
}
# One Switch layer in each stack, and little else.
FEW_LAYERS = {
    "encoder/transformer.make_layer_stack.layers": (
        "[@transformer_layers.SelfAttention, @SwitchFFN]"
    ),
    "decoder/transformer.make_layer_stack.layers": (
        "[@transformer_layers.SelfAttention, @transformer_layers.EncDecAttention, @SwitchFFN]"
    ),
}
FEW_SWITCH_LAYERS = ("decoder/block_000/layer_002", "encoder/block_000/layer_001")


def each_router(default: str) -> list:
    """Yields the routers as parameters; only `default` is in the default suite.

    To dispatch, Switch and No-Token-Left-Behind are cases of top-2 with one expert per token.
    """
    slow = pytest.mark.slow
    return [pytest.param(name, marks=() if name == default else slow) for name in ROUTERS]


@pytest.mark.parametrize("router", each_router(default="top-2"))
def test_microbatches_give_the_loss_and_the_routing_of_the_whole_batch(tiny, router):
    groups = {"ExpertCapacity.group_size": "16", **FEW_LAYERS, **ROUTERS[router]}
    microbatches = "utils.serialize_num_microbatches.tokens_per_microbatch_per_replica"
    whole_loss, whole = run_first_step(tiny, groups)
    loss, sums = run_first_step(tiny, {**groups, microbatches: "64"})
    # Sums of float32 numbers in another order.
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    assert sorted(sums) == sorted(whole) == list(FEW_SWITCH_LAYERS)
    for layer in FEW_SWITCH_LAYERS:
        np.testing.assert_allclose(sums[layer], whole[layer], rtol=1e-5)
        # Tokens, dropped ones, those of each expert and those served are counts.
        counts = [0, 1, *range(6, 6 + 2 * EXPERTS)]
        np.testing.assert_array_equal(sums[layer][counts], whole[layer][counts])


@pytest.mark.parametrize("router", each_router(default="top-2"))
def test_packed_sequences_give_the_logits_and_the_routing_that_they_have_alone(tiny, router):
    """Two short examples per row, separated by their segments; no token is dropped."""
    settings, vocabulary = tiny.parse({**NO_DROP, **ROUTERS[router]})
    got, expected, alone = run_packed_and_alone(None, settings, vocabulary)
    for layer in SWITCH_LAYERS:
        tokens, dropped = got.router_sums[layer][:2]
        feature = "inputs" if layer.startswith("encoder") else "targets"
        assert (tokens, dropped) == (np.count_nonzero(alone[feature]), 0)
        loads = (got.router_sums[layer][6:], expected.router_sums[layer][6:])
        np.testing.assert_array_equal(*loads)


@pytest.mark.parametrize("router", each_router(default="switch"))
def test_a_language_model_reads_a_prompt_and_continues_with_its_most_likely_tokens(
    tiny, monkeypatch, router
):
    """The layer has the same outputs all at once, in first_part, and token by token."""
    settings, vocabulary = tiny.parse(
        {
            **NO_DROP,
            **ROUTERS[router],
            "utils.run.model_type": "'lm'",
            "transformer.make_layer_stack.layers": (
                "[@transformer_layers.SelfAttention, @SwitchFFN]"
            ),
            "Unitransformer.shared_embedding_and_softmax_weights": "False",
        }
    )
    modes = set()
    call = SwitchFFN.call

    def call_and_note(self, context, x, losses=None):
        modes.add(context.mode)
        return call(self, context, x, losses)

    monkeypatch.setattr(SwitchFFN, "call", call_and_note)
    prompts = np.zeros([8, TARGETS], np.int32)
    prompts[:, :5] = np.random.RandomState(0).randint(3, 400, size=[8, 5])
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(0)
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        ids = tf.placeholder(tf.int32, prompts.shape)
        shape = mtf.Shape([mtf.Dimension("batch", 8), mtf.Dimension("length", TARGETS)])
        sequences = mtf.import_tf_tensor(mesh, ids, shape)
        built = switch_transformer.build(settings, vocabulary)
        dtype = utils.get_variable_dtype()
        logits, _ = built.call_simple(
            transformer.autoregressive_inputs(sequences),
            sequences,
            compute_loss=True,
            mode="eval",
            variable_dtype=dtype,
        )
        samples = built.sample_autoregressive(sequences, temperature=0.0, variable_dtype=dtype)
        mesh_impl = SeededPlacementMeshImpl(mtf.Shape([]), mtf.LayoutRules(set()), [""])
        lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl}, autostack=False)
        tf_samples, tf_logits = map(lowering.export_to_tf_tensor, (samples, logits))
        session.run(tf.global_variables_initializer())
        continued = session.run(tf_samples, {ids: prompts})
        most_likely = session.run(tf_logits, {ids: continued}).argmax(axis=-1)
    assert modes == {"eval", "first_part", "incremental"}
    np.testing.assert_array_equal(continued[:, :5], prompts[:, :5])
    ends = continued == EOS_ID
    going_on = (np.cumsum(ends, axis=1) - ends == 0) & (np.arange(TARGETS) >= 5)
    np.testing.assert_array_equal(continued[going_on], most_likely[going_on])
    assert len(np.unique(continued[:, 5:])) > 5, "the outputs are to be worth the look"


@pytest.mark.parametrize("on_tpu", [False, True])
def test_every_switch_layer_knows_what_it_is_built_for(tiny, on_tpu):
    settings, vocabulary = tiny.parse({})
    inference = InferenceCapacity(3.0) if on_tpu else None
    built = switch_transformer.build(settings, vocabulary, on_tpu, inference)
    layers = [
        layer
        for stack in switch_transformer.stacks(built)
        for layer in switch_transformer.switch_layers(stack)
    ]
    assert layers
    assert {layer.on_tpu for layer in layers} == {on_tpu}
    assert {layer.inference for layer in layers} == {inference}


@pytest.mark.parametrize(
    "params",
    [
        {"transformer.make_layer_stack.block_scope": "'x'", "encoder/" + LAYERS: "5"},
        {"encoder/" + LAYERS: "[5]"},
        {"encoder/" + LAYERS: "[None]"},
        {"encoder/" + LAYERS: "['x', @SwitchFFN]"},
        {"encoder/" + LAYERS: "[[@SwitchFFN, 5, 6]]"},
        {"SwitchFFN.activation": "5"},
        {"Unitransformer.vocab_divisor": "'x'"},
    ],
    ids=str,
)
def test_values_of_another_type_are_refused_when_a_model_is_constructed(tiny, params):
    with pytest.raises(UserError) as caught:
        switch_transformer.build(*tiny.parse(params))
    assert "\n" not in str(caught.value).split("\n  In call to configurable")[0]
