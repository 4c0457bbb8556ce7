"""The reports of plans: the recommendation in each case, and the text of one report."""

from __future__ import annotations

import argparse
import dataclasses

import pytest

from mtf_switch.cli import planning_flags
from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.planning import core_memory, plan_report
from mtf_switch.planning.communication import Collective
from mtf_switch.planning.hardware import StepEstimate
from mtf_switch.planning.plan import Plan, PlannedVocabulary

GIB = 2**30
ESTIMATE = StepEstimate("TPU v3", 0.6, 0.3, 0.1, "compute", 1.0, 16 * GIB)
PLAN = Plan(
    layout=MeshLayout.parse("data:8", "batch:data,experts:data"),
    batch_tokens=8000,
    sequences=16,
    microbatches=2,
    vocabulary=PlannedVocabulary(250100, "that of the task mc4"),
    parameters=dict.fromkeys(core_memory.PARAMETER_GROUPS, 1000),
    optimizer_slots=77,
    flops_per_sequence=1e9,
    flops_per_step=8e10,
    core_flops={"forward": 4e9, "backward": 6e9, "update": 0.0},
    core_matmul_bytes=1e8,
    memory={**dict.fromkeys(core_memory.MEMORY_GROUPS, 0), "experts": 10 * GIB},
    activations_unfused=3 * GIB,
    collectives=[Collective("all_to_all", "data", 8, "bfloat16", (4, 1024), "forward", 5)],
    estimate=ESTIMATE,
    verdict="It fits.",
    seconds_to_plan=3.0,
    peak_rss_bytes=GIB,
)


def change_plan(cores=8, seconds=1.0, gib=10):
    """Returns PLAN with other cores, seconds per step and memory."""
    return dataclasses.replace(
        PLAN,
        layout=MeshLayout.parse(f"data:{cores}", "batch:data,experts:data"),
        estimate=dataclasses.replace(ESTIMATE, step_seconds=seconds),
        memory={**PLAN.memory, "experts": gib * GIB},
    )


def test_the_layout_with_the_most_tokens_per_second_is_recommended_among_those_that_fit():
    plans = {
        "small": change_plan(cores=8, seconds=1.0),
        "large": change_plan(cores=32, seconds=0.5),
        "too large": change_plan(cores=8, seconds=0.1, gib=17),
    }
    assert plan_report.recommend_layout(plans) == (
        "Recommended: large. It processes the most input tokens per second among the layouts "
        "that fit (16,000, with 500.0 ms per step). Its bottleneck is compute. small processes the "
        "most tokens per core: 1,000 tokens/s instead of 500. too large would be faster but does "
        "not fit: more model parallelism or smaller microbatches trade time for memory."
    )


def test_where_nothing_fits_the_nearest_layout_is_named():
    plans = {"far": change_plan(gib=40), "near": change_plan(gib=20)}
    assert plan_report.recommend_layout(plans) == (
        "None of the layouts fits. near is the nearest: It fits."
    )


def test_the_text_of_a_plan_has_its_numbers():
    lines = [" ".join(line.split()) for line in plan_report.format_plan(PLAN).splitlines()]
    for line in (
        "TPU v3, 8 cores (data:8)",
        "layout rules: batch:data,experts:data",
        "per step: 16 sequences, 8,000 input tokens, 2 microbatches",
        "vocabulary: 250,100 pieces and sentinels (that of the task mc4)",
        "experts 1,000 10.00 GiB",
        "optimizer_slots 77 0 B",
        "total 6,000 10.00 GiB",
        "all_to_all forward data bfloat16 [4,1024] 5 40.00 KiB 35.00 KiB",
        "forward FLOPs per sequence (as in Table 9) 1e+09",
        "arithmetic intensity of the matmuls 100 FLOP/byte",
        "FLOPs per byte that a core sends 2.79e+05",
        "all-to-all 300.0 ms 30%",
        "bottleneck: compute; 8,000 input tokens/s",
        "planned in 3 s with 1.00 GiB of memory",
    ):
        assert line in lines


def test_smaller_collectives_are_summed_up_in_one_row():
    text = plan_report.format_plan(dataclasses.replace(PLAN, collectives=14 * PLAN.collectives))
    assert "and 2 smaller rows (10 collectives)  70.00 KiB on the wire" in text


@pytest.mark.parametrize(("seconds", "text"), [(0.0482, "48.2 ms"), (1.5, "1.50 s")])
def test_seconds_are_formatted_for_people(seconds, text):
    assert plan_report.format_seconds(seconds) == text


def test_the_plot_names_model_layout_hardware_and_the_limit():
    from matplotlib.figure import Figure

    figure = Figure()
    plan_report.draw_plans(figure, {"data:2": PLAN}, "switch_tiny")
    title = figure.get_suptitle()
    assert title.startswith("switch_tiny: ")
    assert title.endswith(f"layout {PLAN.layout.layout_rules}")
    assert PLAN.estimate.hardware in title
    limit = PLAN.estimate.hbm_bytes / 2**30
    assert (
        figure.axes[0].get_xlabel() == f"GiB per core (dashed line: {limit:.4g} GiB, the limit)"
    )


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["models/switch_c.gin", "layouts/data.gin"], "switch_c"),
        (["layouts/data.gin", "mine/models/other.gin"], "other"),
        (["mine.gin"], "mine"),
    ],
)
def test_the_model_is_named_after_its_file(files, name):
    assert planning_flags.name_model(argparse.Namespace(gin_file=files)) == name
