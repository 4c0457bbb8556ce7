"""Section 2.4: std = sqrt(s / fan_in) for every kind of weight matrix."""

from __future__ import annotations

import types

import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils

from mtf_switch.config import bound_settings, gin_config
from mtf_switch.errors import UserError
from mtf_switch.layers import initialization
from mtf_switch.model import switch_transformer

MODEL, HIDDEN, HEADS, KEY, EXPERTS = 64, 96, 4, 32, 4
# The standard deviation of a unit normal truncated at two deviations.
TRUNCATED = 0.87962566
# The end of a variable's name -> its fan-in.
FAN_IN = {
    "SelfAttention/q": MODEL * KEY,  # T5 folds the 1 / sqrt(d_kv) of attention in here
    "EncDecAttention/q": MODEL * KEY,
    "SwitchAttention/query/w/kernel": MODEL * KEY,
    "SwitchAttention/query/switch_gating/kernel": MODEL,
    "SwitchAttention/key_value/w/kernel": MODEL,
    "SwitchAttention/key_value/switch_gating/kernel": MODEL,
    "Attention/k": MODEL,
    "Attention/v": MODEL,
    "Attention/o": HEADS * KEY,
    "DenseReluDense/wi/kernel": MODEL,
    "DenseReluDense/wi_0/kernel": MODEL,
    "DenseReluDense/wi_1/kernel": MODEL,
    "DenseReluDense/wo/kernel": HIDDEN,
    "SwitchFFN/switch_gating/kernel": MODEL,
    "SwitchFFN/wi/kernel": MODEL,  # an expert's fan-in is its own
    "SwitchFFN/wi_0/kernel": MODEL,
    "SwitchFFN/wi_1/kernel": MODEL,
    "SwitchFFN/wo/kernel": HIDDEN,
    "logits/kernel": MODEL,
}
# Variables to which the scale does not apply; they keep T5's initial values.
OTHERS = ("shared/embedding", "rms_norm/scale", "relative_attention_bias", "/embedding")
# The rows of Table 3, and the released models' activation.
CASES = {
    "Table 3, s = 0.1": ("paper/table_3/scale_0.1.gin", 0.1),
    "Table 3, s = 1.0": ("paper/table_3/scale_1.0.gin", 1.0),
    "Table 10, experts in attention": (
        "paper/table_10/experts_ff_and_attention_float32.gin",
        0.1,
    ),
    "ReLU, embeddings not tied": ("models/switch_base_released.gin", 0.1),
}


def _initial_values(file, *params):
    """Returns the initial values of all variables of a gin file's model, made small."""
    gin_config.parse(
        [file],
        [
            f"d_model = {MODEL}",
            f"d_ff = {HIDDEN}",
            f"num_heads = {HEADS}",
            f"d_kv = {KEY}",
            f"num_experts = {EXPERTS}",
            "num_layers = 2",
            "MIXTURE_NAME = 'a_task'",
            "utils.run.batch_size = 2",
            "utils.run.sequence_length = {'inputs': 32, 'targets': 32}",
            *params,
        ],
    )
    settings = bound_settings.read_settings()
    built = switch_transformer.build(settings, types.SimpleNamespace(vocab_size=500))
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        getter = initialization.make_scaled_getter(initialization.init_scale())
        with tf.variable_scope("", custom_getter=getter):
            mesh = mtf.Mesh(mtf.Graph(), "mesh")
            dims = [mtf.Dimension("batch", 2), mtf.Dimension("length", 32)]
            ids = mtf.zeros(mesh, mtf.Shape(dims), dtype=tf.int32)
            dtype = utils.get_variable_dtype()
            built.call_simple(ids, ids, compute_loss=True, mode="train", variable_dtype=dtype)
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            return {v.op.name: session.run(v) for v in tf.trainable_variables()}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def initial(request):
    file, s = request.param
    untied = [
        f"{stack}/Unitransformer.shared_embedding_and_softmax_weights = False"
        for stack in ("encoder", "decoder")
        if "released" in file
    ]
    return s, _initial_values(file, *untied)


def _fan_in(name):
    """Returns the fan-in of a weight matrix; None for other variables."""
    return next((n for end, n in FAN_IN.items() if name.endswith(end)), None)


def test_every_weight_matrix_has_the_deviation_of_its_fan_in(initial):
    s, values = initial
    matrices = {name: value for name, value in values.items() if _fan_in(name)}
    for name, value in matrices.items():
        expected = TRUNCATED * np.sqrt(s / _fan_in(name))
        # The deviation of n samples is itself uncertain by 1 / sqrt(2 n): five of those.
        tolerance = 5 / np.sqrt(2 * value.size)
        assert np.std(value) == pytest.approx(expected, rel=tolerance), name
        assert np.abs(value).max() <= 2 * expected / TRUNCATED * (1 + 1e-6), name
    # Every kind of matrix occurred: gated or not, with its own logits or not.
    kinds = {end for end in FAN_IN if any(name.endswith(end) for name in matrices)}
    absent = ["wi/", "logits"] if any("wi_0" in name for name in matrices) else ["wi_"]
    absent += [] if any("SwitchAttention" in name for name in matrices) else ["SwitchAttention"]
    assert kinds == {end for end in FAN_IN if not any(part in end for part in absent)}
    # No variable was overlooked.
    assert not [name for name in values.keys() - matrices.keys() if not name.endswith(OTHERS)]


def test_each_expert_has_that_deviation_of_its_own(initial):
    """A plain [E, M, F] kernel would have the fan-in of all experts together."""
    s, values = initial
    kernels = [(k, v) for k, v in values.items() if "SwitchFFN/w" in k]
    # Encoder and decoder have one sparse layer each, of three kernels or two.
    assert len(kernels) in (4, 6)
    for name, kernel in kernels:
        assert kernel.shape[0] == EXPERTS
        for expert in kernel:
            assert expert.shape[0] == _fan_in(name)
            expected = TRUNCATED * np.sqrt(s / expert.shape[0])
            assert np.std(expert) == pytest.approx(expected, rel=5 / np.sqrt(2 * expert.size))


def test_embeddings_norms_and_position_biases_keep_their_initial_values(initial):
    _, values = initial
    embeddings = [value for name, value in values.items() if name.endswith("embedding")]
    norms = [value for name, value in values.items() if name.endswith("rms_norm/scale")]
    biases = [value for name, value in values.items() if name.endswith("attention_bias")]
    assert embeddings
    assert all(np.std(value) == pytest.approx(1.0, rel=0.02) for value in embeddings)
    assert norms
    assert all((norm == 1.0).all() for norm in norms)
    # Glorot's uniform distribution over heads and 32 buckets.
    limit = np.sqrt(6 / (HEADS + 32))
    assert len(biases) == 2
    assert all(limit / 2 < np.abs(bias).max() <= limit for bias in biases)


def test_a_scale_that_is_not_above_zero_is_refused():
    with pytest.raises(
        UserError, match=r"init_scale\.s is 0, but it must be a finite number above 0"
    ):
        initialization.init_scale(0)
