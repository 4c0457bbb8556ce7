"""Switch attention in a model: training, evaluation, decoding, and costs."""

from __future__ import annotations

import functools
import json
import types

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from first_step import QUIET, run_first_step
from mesh_tensorflow.transformer import utils
from packed_examples import NO_DROP, run_packed_and_alone
from tiny_run import EOS_ID, INPUTS, TARGETS, log_likelihoods

from mtf_switch.config import bound_settings, gin_config
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.model import flops, switch_transformer
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl
from mtf_switch.model_dirs import train_log
from mtf_switch.planning import planner

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
    """A model_dir after 2 steps of a tiny version of Table 10's Experts FF + Attention."""
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
    # Columns stay under their headers, even next to long names.
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
    """Decodes token by token, and then computes all logits of the result at once."""
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
            # Experts have almost no slots, but decoding drops no token.
            layer.capacity = ExpertCapacity(0.01, 0.01, 1)
        decode = functools.partial(built.decode, ids, variable_dtype=dtype, temperature=0.0)
        outputs = [decode(), decode(beam_size=4, alpha=0.0)]
        mesh_impl = SeededPlacementMeshImpl(mtf.Shape([]), mtf.LayoutRules(set()), [""])
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
    # A beam may lose a path that greedy decoding finds, but not in all of 8 examples.
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


# ---- costs

SIZES = (
    *("d_model = 16", "d_ff = 24", "num_heads = 4", "d_kv = 8", "utils.run.batch_size = 8"),
    "utils.run.sequence_length = {'inputs': 32, 'targets': 16}",
)


def cost(*files, params=()):
    gin_config.parse(["models/t5_tiny.gin", *files], ["MIXTURE_NAME = 'x'", *SIZES, *params])
    settings = bound_settings.read_settings()
    return flops.compute_cost(
        switch_transformer.build(settings, types.SimpleNamespace(vocab_size=500)), settings
    )


SPARSE = ("num_experts = 8", "transformer.make_layer_stack.num_layers = 1")
ATTENTION_FILE = "sparsity/experts_attention.gin"
TOKENS = 32 + 16
PROJECTION, ROUTER = 16 * 4 * 8, 16 * 8


def test_linear_experts_do_what_dense_attention_does_but_for_the_router_and_shared_kv():
    dense, sparse = cost(), cost(ATTENTION_FILE, params=SPARSE)
    # Each stack has one Switch layer: one projection fewer, and two routers more.
    more = 2 * TOKENS * (2 * ROUTER - PROJECTION)
    assert sparse.flops_per_sequence - dense.flops_per_sequence == more
    experts = 2 * (2 * 8 * PROJECTION + 2 * ROUTER - 3 * PROJECTION)
    assert sparse.parameters - dense.parameters == experts


@pytest.mark.parametrize(
    ("file", "layers", "in_experts"),
    [
        (ATTENTION_FILE, ["SwitchAttention"], 2 * PROJECTION),
        ("sparsity/every_other_switch.gin", ["SwitchFFN"], 2 * 16 * 24),
        (
            "sparsity/experts_ff_and_attention.gin",
            ["SwitchFFN", "SwitchAttention"],
            2 * PROJECTION + 2 * 16 * 24,
        ),
    ],
)
def test_a_token_that_visits_two_experts_costs_two_of_them(file, layers, in_experts):
    one, two = (
        cost(file, params=(*SPARSE, *(f"{layer}.router = @{router}()" for layer in layers)))
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
    # Two in each direction for each of the four sets, and no others.
    assert sum(exchange.count for exchange in exchanges) == 16
    assert {exchange.dtype for exchange in exchanges} == {"bfloat16"}
    if network == "linear":
        # Slots return with the heads of one core, which are half of all heads.
        assert {exchange.shape[-1] for exchange in exchanges} == {16, 4 * 8 // 2}
