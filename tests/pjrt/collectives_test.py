"""The compiled program has no collectives but those that the planner counts."""

from __future__ import annotations

import collections

import pytest
from pjrt_case import Case, layout_params
from strategies import STRATEGIES

from mtf_switch.planning import pod_census, pod_graph
from mtf_switch.programs import compiled_hlo

# Both have the dispatch of a TPU.
PARAMS = {"SwitchFFN.dispatch": "'einsum'"}


@pytest.mark.parametrize(
    "strategy",
    [
        "expert_data",
        *(
            pytest.param(strategy, marks=pytest.mark.slow)
            for strategy in STRATEGIES
            if strategy != "expert_data"
        ),
    ],
)
def test_the_collectives_are_those_that_the_planner_counts(tiny, strategy):
    """The compiler joins and removes some, and adds none: bytes by kind and size of groups."""
    case = Case(tiny, layout_params(strategy), PARAMS)
    compiled: dict[tuple, int] = collections.Counter()
    for found in compiled_hlo.count_collectives(case.compile().hlo, case.settings.layout.size):
        compiled[found.kind, found.cores_per_group] += found.bytes * found.count
    counted: dict[tuple, int] = collections.Counter()
    pod = pod_graph.build(case.settings, case.vocabulary)
    for each in pod_census.count_collectives(pod):
        counted[each.kind, each.cores_per_group] += each.operand_bytes
    assert compiled.keys() == counted.keys()
    for key, size in compiled.items():
        print(key, size, counted[key])
        assert 0.5 * counted[key] <= size <= counted[key]
