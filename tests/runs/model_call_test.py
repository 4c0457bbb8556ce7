"""Padding in models of one stack: it is known, so no expert gets it."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from language_models import NO_DROP, make_params, run_step
from mesh_tensorflow.transformer import transformer
from tiny_run import EOS_ID, TinyRun

from mtf_switch.runs import inference_steps

LENGTH = 8
SHORT = [[5, 6, EOS_ID, 0, 0, 0, 0, 0], [7, 8, 9, EOS_ID, 0, 0, 0, 0]]
LONG = [[20, 21, 22, 23, 24, 25, EOS_ID, 0], [30, 31, 32, EOS_ID, 0, 0, 0, 0]]
FEATURES = {"inputs": np.array(SHORT), "targets": np.array(LONG)}


def select(model_type: str) -> dict[str, np.ndarray]:
    return {"targets": FEATURES["targets"]} if model_type == "lm" else FEATURES


def make_room(tokens: int, of: int) -> dict[str, str]:
    """Returns the gin values of one expert with room for some of the positions of a batch."""
    return {
        "num_experts": "1",
        "ExpertCapacity.group_size": "None",
        "ExpertCapacity.min_expert_capacity": "1",
        "ExpertCapacity.capacity_factor_eval": repr((tokens + 0.5) / of),
    }


@pytest.mark.parametrize(
    ("model_type", "step", "tokens"),
    [
        ("lm", "evaluation", 7 + 4),
        ("lm", "scoring", 7 + 4),
        ("delimited_lm", "evaluation", 3 + 4 + 7 + 4),
        ("delimited_lm", "scoring", 3 + 4 + 7 + 4),
        # It reads its inputs, whatever it is to predict.
        ("aligned", "evaluation", 3 + 4),
        ("aligned", "scoring", 3 + 4),
    ],
)
def test_real_tokens_alone_are_routed(
    tiny: TinyRun, model_type: str, step: str, tokens: int
) -> None:
    length = 2 * LENGTH if model_type == "delimited_lm" else LENGTH
    params = make_room(tokens, of=2 * length) | make_params(model_type, LENGTH)
    build = getattr(inference_steps, f"build_{step}")
    results = run_step(tiny, params, build, select(model_type))
    assert (results.tokens, results.dropped) == (tokens, 0)


def test_real_tokens_of_a_prompt_alone_are_routed(tiny: TinyRun) -> None:
    params = make_room(3 + 4, of=2 * 2 * LENGTH) | make_params("lm", LENGTH)
    features = {"inputs": FEATURES["inputs"]}
    results = run_step(tiny, params, inference_steps.build_decoding, features)
    assert (results.tokens, results.dropped) == (3 + 4, 0)


@pytest.mark.parametrize("model_type", ["lm", "delimited_lm"])
def test_a_dense_model_predicts_the_same_with_padding_unknown(
    tiny: TinyRun, model_type: str
) -> None:
    """Causal attention sees no padding, with the ids of sequences or as upstream without them.

    One expert with room for all tokens is a dense layer.
    """
    params = {"num_experts": "1", "SwitchRouter.aux_loss_coef": "0.0", **NO_DROP}
    params |= make_params(model_type, LENGTH)
    call = transformer.Unitransformer.call_simple

    def call_as_upstream(self, **arguments):
        targets = arguments["targets"]
        assert arguments.pop("sequence_id") is not None
        return call(self, **{**arguments, "inputs": transformer.autoregressive_inputs(targets)})

    build = inference_steps.build_evaluation
    found = run_step(tiny, params, build, select(model_type)).outputs
    with mock.patch.object(transformer.Unitransformer, "call_simple", call_as_upstream):
        expected = run_step(tiny, params, build, select(model_type)).outputs
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-6)
    real = found["targets"] > 0
    # Float32, summed in another order.
    np.testing.assert_allclose(
        found["cross_entropy"][real], expected["cross_entropy"][real], rtol=1e-5
    )


@pytest.mark.parametrize("model_type", ["lm", "delimited_lm", "aligned"])
def test_longer_rows_of_padding_change_nothing(tiny: TinyRun, model_type: str) -> None:
    features = select(model_type)
    found = []
    for added in (0, 5):
        padded = {name: np.pad(ids, [(0, 0), (0, added)]) for name, ids in features.items()}
        params = NO_DROP | make_params(model_type, LENGTH + added)
        outputs = run_step(tiny, params, inference_steps.build_scoring, padded).outputs
        found.append(outputs["scores"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_a_token_without_a_loss_is_no_padding(tiny: TinyRun) -> None:
    """Mesh TF marks such tokens by negative ids."""
    masked = FEATURES["targets"] * np.where(np.arange(LENGTH) < 2, -1, 1)
    params = NO_DROP | make_params("lm", LENGTH)
    build = inference_steps.build_evaluation
    found = run_step(tiny, params, build, {"targets": masked})
    expected = run_step(tiny, params, build, {"targets": FEATURES["targets"]})
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(
        found.outputs["cross_entropy"][..., 2:4],
        expected.outputs["cross_entropy"][..., 2:4],
        rtol=1e-5,
    )
