"""A step that PJRT runs on 8 CPU devices is that of TensorFlow on one, with all noise on.

Its program has no collectives but those that the planner counts.
"""

from __future__ import annotations

import collections

import numpy as np
import pytest
from pjrt_case import Case, layout_params
from strategies import STRATEGIES

from mtf_switch.planning import pod_census, pod_graph
from mtf_switch.programs import compiled_hlo

STEPS = 20
# One unit in the last place of float32, relative.
ULP = 2.0**-23
CONTROLS = (0, 1, 2)
NO_NOISE = {
    "dropout_rate": "0.0",
    "SwitchFFN.expert_dropout_rate": "0.0",
    "Exploration.jitter": "0.0",
}


@pytest.fixture(
    scope="module",
    params=[
        "expert_model_data",
        *(
            pytest.param(strategy, marks=pytest.mark.slow)
            for strategy in STRATEGIES
            if strategy != "expert_model_data"
        ),
        pytest.param("einsum", marks=pytest.mark.slow),
        pytest.param("microbatches without noise", marks=pytest.mark.slow),
        pytest.param("microbatches", marks=pytest.mark.slow),
    ],
)
def results(request, tiny):
    """(results of PJRT, those of one device, those of its controls, the case)."""
    strategy, params, on_one_device = request.param, {"SwitchFFN.dispatch": "'gather'"}, {}
    if strategy == "einsum":
        strategy, params = "expert_data", {"SwitchFFN.dispatch": "'einsum'"}
    if strategy.startswith("microbatches"):
        # Two microbatches: 64 tokens for each core of 4, and 256 for one device.
        tokens = "utils.serialize_num_microbatches.tokens_per_microbatch_per_replica"
        params = {tokens: "32", **(NO_NOISE if strategy.endswith("noise") else {})}
        strategy, on_one_device = "data", {tokens: "128"}
        layout = layout_params(strategy, {"data": 4})
    else:
        layout = layout_params(strategy)
    case = Case(tiny, layout, params, on_one_device)
    initial, (one, *controls) = case.train_on_one_device(STEPS, CONTROLS)
    return case.train_through_pjrt(initial, STEPS), one, controls, case


def test_the_first_loss_and_all_gradients_are_those_of_one_device(results):
    ours, one, _, _ = results
    np.testing.assert_allclose(ours.losses[0], one.losses[0], rtol=1e-5)
    assert ours.gradients.keys() == one.gradients.keys()
    assert len(one.gradients) == 16
    for name, gradient in one.gradients.items():
        # Sums over tokens in another order: within 1e-5 of the tensor's largest gradient.
        scale = np.abs(gradient).max()
        assert scale > 0, name
        np.testing.assert_allclose(
            ours.gradients[name], gradient, atol=1e-5 * scale, rtol=1e-5, err_msg=name
        )


def test_twenty_steps_stay_as_near_as_rounding_allows(results):
    """The tolerance is that of `layout_equality_test`: ten times the distance of controls.

    A control starts from weights that are changed by up to one unit in the last place.
    """
    ours, one, controls, _ = results
    spread = np.max([np.abs(control.losses - one.losses) for control in controls], axis=0)
    rounding = 10 * np.maximum(np.maximum.accumulate(spread), ULP * one.losses)
    distance = np.abs(ours.losses - one.losses)
    assert (distance <= rounding).all(), (distance, rounding)
    # The steps are worth comparing: the model learns.
    assert one.losses.min() < one.losses[0] - 0.3


def test_all_variables_after_twenty_steps_are_as_near(results):
    ours, one, controls, _ = results
    assert ours.variables.keys() == one.variables.keys()
    for name, value in one.variables.items():
        spread = max(np.abs(control.variables[name] - value).max() for control in controls)
        distance = np.abs(ours.variables[name] - value).max()
        assert distance <= 10 * max(spread, ULP * np.abs(value).max()), name


def test_the_collectives_are_those_that_the_planner_counts(results):
    """The compiler joins and removes some, and adds none: bytes by kind and size of groups."""
    ours, *_, case = results
    case.parse_layout()
    compiled: dict[tuple, int] = collections.Counter()
    for found in compiled_hlo.count_collectives(ours.hlo, case.settings.layout.size):
        compiled[found.kind, found.cores_per_group] += found.bytes * found.count
    counted: dict[tuple, int] = collections.Counter()
    pod = pod_graph.build(case.settings, case.vocabulary)
    for each in pod_census.count_collectives(pod):
        counted[each.kind, each.cores_per_group] += each.operand_bytes
    assert compiled.keys() == counted.keys()
    for key, size in compiled.items():
        print(key, size, counted[key])
        assert 0.5 * counted[key] <= size <= counted[key]
