"""`eval` and `score` with --runtime=pjrt have the results of the Estimator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf
from tiny_run import TinyRun, copy_of

from mtf_switch.pjrt.inference import PjrtRunner

RUNTIMES = ("estimator", "pjrt")
# On one device, the Estimator sorts tokens, which gives equal results in evaluation.
devices = pytest.mark.parametrize("devices", [1, pytest.param(4, marks=pytest.mark.slow)])


def assert_near(ours, others):
    """Compares numbers in JSON objects: 1e-5 for sums of float32 in another order."""
    if isinstance(others, dict):
        assert ours.keys() == others.keys()
        for key, value in others.items():
            assert_near(ours[key], value)
    elif isinstance(others, list):
        assert len(ours) == len(others)
        for mine, other in zip(ours, others):
            assert_near(mine, other)
    elif isinstance(others, float):
        assert ours == pytest.approx(others, rel=1e-5, abs=1e-6)
    else:
        assert ours == others


@devices
def test_an_evaluation_is_that_of_the_estimator(
    trained: Path, tiny: TinyRun, tmp_path: Path, devices: int
):
    """Perplexity, accuracy and all that is known of the routers, and TensorBoard's curves."""
    results, tags = {}, {}
    for name in RUNTIMES:
        model_dir = copy_of(trained, tmp_path / name)
        flags = (f"--runtime={name}", f"--devices={devices}")
        outcome = tiny.command("eval", f"--model_dir={model_dir}", *flags)
        assert outcome.code == 0, outcome.err
        results[name] = json.loads((model_dir / "eval.json").read_text())
        tags[name] = {
            value.tag
            for events in model_dir.glob("eval_validation/events*")
            for event in tf.train.summary_iterator(str(events))
            for value in event.summary.value
        }
    assert results["estimator"]["target_tokens"] > 100
    assert results["estimator"]["router"]
    assert_near(results["pjrt"], results["estimator"])
    assert {"neg_log_perplexity", "loss"} <= tags["pjrt"]
    assert tags["pjrt"] == tags["estimator"]


def test_without_a_batch_there_are_no_results():
    def read_nothing(params):
        del params
        return tf.data.Dataset.from_tensors({"targets": [1]}).take(0)

    assert PjrtRunner(None, None, None).evaluate(read_nothing, None, [], "no-path", "") == {}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_scores_are_those_of_the_estimator(
    trained: Path, tiny: TinyRun, tmp_path: Path, devices: int
):
    texts = {"inputs": ["ba do ki", "lu", "me no pa"], "targets": ["ri so", "tu ve", "za"]}
    arguments = [f"--model_dir={trained}"]
    for name, flag in (("inputs", "input_file"), ("targets", "target_file")):
        (tmp_path / name).write_text("\n".join(texts[name]) + "\n")
        arguments.append(f"--{flag}={tmp_path / name}")
    scores = {}
    for name in RUNTIMES:
        output = tmp_path / name
        flags = (f"--runtime={name}", f"--devices={devices}")
        outcome = tiny.command("score", *arguments, f"--output_file={output}", *flags)
        assert outcome.code == 0, outcome.err
        scores[name] = [float(line) for line in output.read_text().split()]
    assert len(scores["estimator"]) == 3
    assert scores["pjrt"] == pytest.approx(scores["estimator"], rel=1e-5)
