"""The share and the length of masked spans follow gin."""

from __future__ import annotations

import gin
import pytest
import seqio

import tasks
from mtf_switch.errors import UserError
from tasks import pretraining
from tasks.span_corruption import SpanCorruption, span_corruption


@pytest.mark.parametrize(("inputs", "targets"), [(64, 14), (128, 29), (256, 58), (512, 114)])
def test_length_of_targets(inputs, targets):
    """T5's own 512 and 114; by hand for 128: 141 tokens, 21 of them noise, 7 spans."""
    assert SpanCorruption().targets_length(inputs) == targets


def test_lengths_of_long_spans():
    """By hand: 56 tokens, 28 of them noise, 3 spans; with the end of sequence 32 and 32."""
    corruption = SpanCorruption(noise_density=0.5, mean_span_length=10.0)
    assert corruption.segment_length(32) == 56
    assert corruption.targets_length(32) == 32


def test_gin_configures_the_tasks_that_are_registered(registry):
    assert span_corruption() == SpanCorruption(0.15, 3.0)
    gin.bind_parameter("span_corruption.noise_density", 0.5)
    gin.bind_parameter("span_corruption.mean_span_length", 10.0)
    tasks.register()
    found = pretraining.find_corruption(seqio.get_mixture_or_task("embedded_text"))
    assert found == SpanCorruption(0.5, 10.0)


def test_the_text_is_masked_as_configured(registry, corpus):
    gin.bind_parameter("span_corruption.noise_density", 0.5)
    gin.bind_parameter("span_corruption.mean_span_length", 10.0)
    task = pretraining.add_corpus_task("fake", corpus)
    lengths = {"inputs": 32, "targets": 32}
    examples = list(
        task.get_dataset(lengths, "train", shuffle=False, seed=0).take(20).as_numpy_iterator()
    )
    first_sentinel = task.output_features["targets"].vocabulary.vocab_size - 3
    for example in examples:
        assert (example["targets"] >= first_sentinel).sum() == 3
        assert ((example["targets"] < first_sentinel) & (example["targets"] > 1)).sum() == 28


def test_targets_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="at least 32"):
        SpanCorruption(0.5, 10.0).check_lengths({"inputs": 32, "targets": 8})


@pytest.mark.parametrize(
    "corruption", [SpanCorruption(0.15, 100.0), SpanCorruption(0.999, 3.0)]
)
def test_segments_without_a_span_or_without_other_tokens_are_refused(corruption):
    with pytest.raises(UserError, match="noise_density"):
        corruption.check_lengths({"inputs": 32, "targets": 3200})
