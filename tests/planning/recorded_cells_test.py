"""The planner against the compiled cells that docs/tpu_compiler.json records."""

from __future__ import annotations

import json

import compiled_cells
import pytest

from mtf_switch.planning import planner

RESULTS = json.loads(compiled_cells.RESULTS.read_text(encoding="utf-8"))
COMPILED = {
    name: result for name, result in RESULTS.items() if result["planner"] and result["compiler"]
}
# Four and eight experts on a core: docs/tpu_compiler.md says that the planner is too low there.
TOO_LOW = ("switch_base", "switch_base_256", "switch_xxl")
# It takes 3 s of CPU time; full-size models take minutes.
CHEAP = "tiny_one_microbatch"


def test_at_least_twelve_training_steps_are_recorded():
    assert len(COMPILED) >= 12
    cells = {compiled_cells.CELLS[name] for name in COMPILED}
    assert len({(cell.model, cell.layout, cell.params) for cell in cells}) == len(COMPILED)


@pytest.mark.parametrize("name", COMPILED)
def test_the_planned_memory_is_within_a_tenth_of_the_compilers(name):
    result = RESULTS[name]
    planned, compiled = result["planner"]["total_bytes"], result["compiler"]["total"]
    assert planned == pytest.approx(compiled, rel=0.14 if name in TOO_LOW else 0.10)


@pytest.mark.parametrize("name", COMPILED)
def test_the_planner_and_the_compiler_agree_whether_a_step_fits(name):
    result = RESULTS[name]
    usable = result["usable_bytes"]
    assert result["compiler"]["total"] <= usable
    assert result["planner"]["total_bytes"] <= usable


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == CHEAP else pytest.mark.slow)
        for name, result in RESULTS.items()
        if result["planner"]
    ],
)
def test_the_recorded_plan_is_that_of_the_present_planner(name):
    """If it is not: `.venv/bin/python benchmarks/compiled_cells.py --plan`."""
    cell = compiled_cells.CELLS[name]
    files = (f"models/{cell.model}.gin", f"layouts/{cell.layout}.gin")
    plan = planner.make_plan(planner.parse_settings(files, cell.params, cell.batch_tokens))
    assert RESULTS[name]["planner"] == {**plan.memory, "total_bytes": plan.total_bytes}


def test_the_page_has_the_table_of_the_results():
    page = compiled_cells.PAGE.read_text(encoding="utf-8")
    assert compiled_cells.make_table(RESULTS) in page
