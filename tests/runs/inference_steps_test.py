"""The score of a language model: of the target alone, given its input."""

from __future__ import annotations

import numpy as np
import pytest
from language_models import NO_DROP, make_params, run_step
from tiny_run import EOS_ID, TinyRun

from mtf_switch.runs import inference_steps

LENGTH = 6
INPUTS = np.array([[5, 6, EOS_ID, 0, 0, 0], [7, EOS_ID, 0, 0, 0, 0]])
TARGETS = np.array([[20, 21, 22, EOS_ID, 0, 0], [30, 31, EOS_ID, 0, 0, 0]])


def join(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns inputs and targets in one row, without padding between them."""
    joined = np.zeros([len(inputs), 2 * LENGTH], np.int32)
    for row, *parts in zip(joined, inputs, targets):
        ids = np.concatenate([part[part > 0] for part in parts])
        row[: len(ids)] = ids
    return joined


@pytest.mark.parametrize("model_type", ["lm", "delimited_lm"])
def test_a_language_model_scores_its_target_given_its_input(
    tiny: TinyRun, model_type: str
) -> None:
    params = NO_DROP | make_params(model_type, LENGTH)
    features = {"inputs": INPUTS, "targets": TARGETS}
    found = run_step(tiny, params, inference_steps.build_scoring, features).outputs
    joined = join(INPUTS, TARGETS)
    params = NO_DROP | make_params("lm", 2 * LENGTH)
    whole = run_step(tiny, params, inference_steps.build_evaluation, {"targets": joined})
    nats = whole.outputs["cross_entropy"][0]
    lengths = (INPUTS > 0).sum(axis=-1, keepdims=True)
    is_target = (np.arange(2 * LENGTH) >= lengths) & (joined > 0)
    np.testing.assert_allclose(found["scores"], -(nats * is_target).sum(axis=-1), rtol=1e-5)


@pytest.mark.parametrize("features", [{}, {"inputs": np.zeros_like(INPUTS)}], ids=str)
def test_an_lm_without_an_input_scores_its_whole_target(tiny: TinyRun, features) -> None:
    params = NO_DROP | make_params("lm", LENGTH)
    features = {**features, "targets": TARGETS}
    found = run_step(tiny, params, inference_steps.build_scoring, features).outputs
    evaluated = {"targets": TARGETS}
    whole = run_step(tiny, params, inference_steps.build_evaluation, evaluated).outputs
    expected = -(whole["cross_entropy"] * whole["weights"])[0].sum(axis=-1)
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-5)
