"""Section 2.4: std = sqrt(s / fan_in) for every weight matrix, whatever its kind."""

from __future__ import annotations

import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils

from mtf_switch import initialization, model, run_config
from mtf_switch.errors import UserError

MODEL, HIDDEN, HEADS, KEY, EXPERTS = 64, 96, 4, 32, 4
# The standard deviation of a unit normal truncated at two deviations.
TRUNCATED = 0.87962566
KINDS = {
    "SwitchAttention/query/w/kernel": MODEL * KEY,
    "SwitchAttention/query/switch_gating/kernel": MODEL,
    "SwitchAttention/key_value/w/kernel": MODEL,
    "SelfAttention/q": (MODEL * KEY),  # T5 folds the 1 / sqrt(d_kv) of attention in here
    "EncDecAttention/q": (MODEL * KEY),
    "Attention/k": MODEL,
    "Attention/v": MODEL,
    "Attention/o": HEADS * KEY,
    "DenseReluDense/wi/kernel": MODEL,
    "DenseReluDense/wo/kernel": HIDDEN,
    "SwitchFFN/switch_gating/kernel": MODEL,
    "SwitchFFN/wi/kernel": MODEL,  # an expert's fan-in is its own
    "SwitchFFN/wo/kernel": HIDDEN,
    "logits/kernel": MODEL,
}


def _initial_values(s):
    """Name -> initial value of every variable of a small model with scale s."""
    run_config.parse(
        ["models/switch_tiny.gin", "attention/experts_ff_and_attention.gin"],
        [
            "MIXTURE_NAME = 'a_task'",
            f"init_scale.s = {s}",
            f"d_model = {MODEL}",
            f"d_ff = {HIDDEN}",
            f"num_heads = {HEADS}",
            f"d_kv = {KEY}",
            f"num_experts = {EXPERTS}",
            "transformer.make_layer_stack.num_layers = 1",
            "Unitransformer.shared_embedding_and_softmax_weights = False",
            "utils.run.batch_size = 2",
            "utils.run.sequence_length = {'inputs': 32, 'targets': 32}",
        ],
    )
    settings = run_config.settings()
    built = model.build(settings, types.SimpleNamespace(vocab_size=500))
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        getter = initialization.scaled_getter(initialization.init_scale())
        with tf.variable_scope("", custom_getter=getter):
            import mesh_tensorflow as mtf

            mesh = mtf.Mesh(mtf.Graph(), "mesh")
            dims = [mtf.Dimension("batch", 2), mtf.Dimension("length", 32)]
            ids = mtf.zeros(mesh, mtf.Shape(dims), dtype=tf.int32)
            dtype = utils.get_variable_dtype()
            built.call_simple(ids, ids, compute_loss=True, mode="train", variable_dtype=dtype)
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            return {v.op.name: session.run(v) for v in tf.trainable_variables()}


@pytest.fixture(scope="module", params=[0.1, 1.0])
def initial(request):
    return request.param, _initial_values(request.param)


def test_every_weight_matrix_has_the_deviation_of_its_fan_in(initial):
    s, values = initial
    seen = set()
    for name, value in values.items():
        kind = next((kind for kind in KINDS if name.endswith(kind)), None)
        if kind is None:
            continue
        seen.add(kind)
        expected = TRUNCATED * np.sqrt(s / KINDS[kind])
        # The deviation of n samples is itself uncertain by 1 / sqrt(2 n): five of those.
        tolerance = 5 / np.sqrt(2 * value.size)
        assert np.std(value) == pytest.approx(expected, rel=tolerance), name
        assert np.abs(value).max() <= 2 * expected / TRUNCATED * (1 + 1e-6), name
    assert seen == set(KINDS)


def test_each_expert_has_that_deviation_of_its_own(initial):
    s, values = initial
    kernel = next(v for k, v in values.items() if k.endswith("SwitchFFN/wi/kernel"))
    assert kernel.shape == (EXPERTS, MODEL, HIDDEN)
    for expert in kernel:
        expected = TRUNCATED * np.sqrt(s / MODEL)
        assert np.std(expert) == pytest.approx(expected, rel=5 / np.sqrt(2 * expert.size))


def test_embeddings_and_norms_keep_their_initial_values(initial):
    _, values = initial
    assert np.std(values["shared/embedding"]) == pytest.approx(1.0, rel=0.02)
    norms = [value for name, value in values.items() if name.endswith("rms_norm/scale")]
    assert norms
    assert all((norm == 1.0).all() for norm in norms)


def test_a_scale_that_is_not_above_zero_is_refused():
    with pytest.raises(UserError, match=r"init_scale\.s is 0, but a scale is above 0"):
        initialization.init_scale(0)
