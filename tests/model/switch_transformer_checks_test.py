"""The checks of lengths, batches and copies of the experts before a graph is built."""

from __future__ import annotations

import contextlib

import pytest

from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import InferenceCapacity
from mtf_switch.model import switch_transformer

LM = {
    "transformer.make_layer_stack.layers": "[@transformer_layers.SelfAttention, @SwitchFFN]",
    "Unitransformer.shared_embedding_and_softmax_weights": "False",
    "utils.run.batch_size": "1",
    "ExpertCapacity.group_size": "None",
}


def _make_lm(model_type, inputs, targets):
    lengths = f"{{'inputs': {inputs}, 'targets': {targets}}}"
    model = {"utils.run.model_type": repr(model_type), "utils.run.sequence_length": lengths}
    return {**LM, **model}


def test_the_length_of_a_delimited_lm_is_that_of_inputs_and_targets_together(tiny):
    switch_transformer.build(
        *tiny.parse({**_make_lm("delimited_lm", 34, 60), "ExpertCapacity.group_size": "47"})
    )
    with pytest.raises(UserError, match=r"does not divide the 94 .*batch 1 x length 94"):
        switch_transformer.build(
            *tiny.parse({**_make_lm("delimited_lm", 34, 60), "ExpertCapacity.group_size": "30"})
        )


@pytest.mark.parametrize(
    ("model_type", "inputs", "targets", "inference", "message"),
    [
        ("delimited_lm", 31, 8, None, "the inputs .*'length' of 31 over the 2 cores"),
        # Their sum divides, but they are also read one by one.
        ("delimited_lm", 8, 31, None, "the targets .*'length' of 31 over the 2 cores"),
        ("lm", 31, 8, None, ""),
        ("lm", 31, 8, InferenceCapacity(), "the inputs .*'length' of 31 over the 2 cores"),
    ],
)
def test_each_length_of_a_model_that_joins_inputs_and_targets_has_to_divide(
    tiny, model_type, inputs, targets, inference, message
):
    mesh = {"utils.run.mesh_shape": "'a:2'", "utils.run.layout_rules": "'length:a'"}
    parsed = tiny.parse({**_make_lm(model_type, inputs, targets), **mesh})
    refusal = pytest.raises(UserError, match=message) if message else contextlib.nullcontext()
    with refusal:
        switch_transformer.build(*parsed, inference=inference)


def test_lines_are_predicted_and_scored_in_batches_that_could_not_be_trained(tiny):
    """As the layer does, which splits their tokens into smaller groups."""
    params = {
        "utils.run.batch_size": "50",
        "ExpertCapacity.group_size": "1024",
        "ExpertCapacity.capacity_factor_train": "0.001",
        "ExpertCapacity.min_expert_capacity": "0",
    }
    settings, vocabulary = tiny.parse(params)
    with pytest.raises(UserError, match="group_size = 1024 does not divide the 1600 tokens"):
        switch_transformer.build(settings, vocabulary)
    switch_transformer.build(settings, vocabulary, inference=InferenceCapacity())
    with pytest.raises(UserError, match=r"capacity is below 1.*In eval: batch 50 x length 32"):
        switch_transformer.build(settings, vocabulary, inference=InferenceCapacity(0.001))


def test_a_copy_of_the_experts_is_checked_before_lines_are_predicted(tiny):
    """Lines are not split into parts, so one set of experts is there."""
    copies = {
        "utils.run.mesh_shape": "'a:2'",
        "utils.run.layout_rules": "'outer_batch:a'",
        "utils.tpu_estimator_model_fn.outer_batch_size": "2",
    }
    settings, vocabulary = tiny.parse(copies)
    switch_transformer.build(settings, vocabulary)
    with pytest.raises(UserError, match=r"'outer_batch' of 1 over the 2 .*1 for predicted or"):
        switch_transformer.build(settings, vocabulary, inference=InferenceCapacity())
