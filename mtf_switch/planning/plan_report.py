"""Reports a plan, or a comparison of several, as text, JSON and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtf_switch.planning.communication import (
    ALL_REDUCE,
    ALL_TO_ALL,
    PERMUTE,
    CollectiveKind,
)
from mtf_switch.planning.core_memory import MEMORY_GROUPS, OPTIMIZER_SLOTS, format_bytes
from mtf_switch.planning.plan import Plan
from mtf_switch.report import Report, check_is_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Names of the files, without their extensions.
_PLAN, _COMPARISON = "plan", "compare"
# Part of a step -> (attribute of StepEstimate, color in the plot). A color has one meaning in
# all three panels: memory uses those of a map from yellow to blue.
_TIMES = {
    "compute": ("compute_seconds", "0.35"),
    "all-to-all": ("all_to_all_seconds", "tab:red"),
    "all-reduce": ("all_reduce_seconds", "tab:pink"),
}
# Kind of collective -> (label, color) in the plot.
_WIRES: Mapping[CollectiveKind, tuple[str, str]] = {
    ALL_TO_ALL: ("all-to-all", "tab:red"),
    ALL_REDUCE: ("all-reduce", "tab:pink"),
    PERMUTE: ("permute", "tab:brown"),
}
_MEMORY_COLORS = "viridis"
# The text shows this many rows of collectives; the JSON file has all of them.
_MAX_COLLECTIVES = 12


def check_output_dir(folder: str, is_comparison: bool) -> None:
    """Checks that a folder holds no report of this kind yet; see `report.check_is_new`."""
    check_is_new(folder, _COMPARISON if is_comparison else _PLAN)


def report_plan(plan: Plan, model: str) -> Report:
    """Reports one plan.

    Args:
      plan: The plan.
      model: The model's name, for the title of the plot.
    """
    plans = {plan.layout.mesh_shape: plan}
    return _make_report(_PLAN, format_plan(plan), plan.as_json(), plans, model)


def report_comparison(plans: Mapping[str, Plan], model: str) -> Report:
    """Reports several plans of one model.

    Args:
      plans: The name of each layout and its plan.
      model: The model's name, for the title of the plot.
    """
    data = {
        "plans": {name: plan.as_json() for name, plan in plans.items()},
        "recommendation": recommend_layout(plans),
    }
    text = format_comparison(plans) + "\n\n" + data["recommendation"]
    return _make_report(_COMPARISON, text, data, plans, model)


def _make_report(
    name: str, text: str, data: dict[str, Any], plans: Mapping[str, Plan], model: str
) -> Report:
    return Report(
        name,
        text,
        data,
        documents={f"{name}.txt": text + "\n"},
        plots={f"{name}.png": lambda figure: draw_plans(figure, plans, model)},
    )


def format_plan(plan: Plan) -> str:
    """Formats a plan as text for the screen."""
    estimate = plan.estimate
    flops_per_wire_byte = sum(plan.core_flops.values()) / max(plan.wire_bytes, 1)
    parts = [
        f"{estimate.hardware}, {plan.layout.size} cores ({plan.layout.mesh_shape})",
        f"layout rules: {plan.layout.layout_rules}",
        f"per step: {plan.sequences:,} sequences, {plan.batch_tokens:,} input tokens"
        + (f", {plan.microbatches} microbatches" if plan.microbatches > 1 else ""),
        f"vocabulary: {plan.vocabulary.size:,} pieces and sentinels ({plan.vocabulary.origin})",
        "",
        _format_memory(plan),
        "",
        _format_collectives(plan),
        "",
        f"forward FLOPs per sequence (as in Table 9)  {plan.flops_per_sequence:.4g}",
        f"FLOPs per step, all matmuls on all cores    {plan.flops_per_step:.4g}",
        "arithmetic intensity of the matmuls         "
        f"{plan.arithmetic_intensity:.0f} FLOP/byte",
        f"FLOPs per byte that a core sends            {flops_per_wire_byte:.4g}",
        "",
        f"estimated time of a step, if nothing overlaps and all parts run at their peak: "
        f"{format_seconds(estimate.step_seconds)}",
        *(
            f"  {name:11s} {format_seconds(getattr(estimate, field)):>9s}"
            f"  {getattr(estimate, field) / estimate.step_seconds:4.0%}"
            for name, (field, _) in _TIMES.items()
        ),
        f"bottleneck: {_name_bottleneck(plan)}; {plan.tokens_per_second:,.0f} input tokens/s",
        "",
        plan.verdict,
        "",
        f"planned in {plan.seconds_to_plan:.0f} s with {format_bytes(plan.peak_rss_bytes)} of "
        "memory",
    ]
    return "\n".join(parts)


def _format_memory(plan: Plan) -> str:
    lines = ["                           parameters     per core"]
    for group in MEMORY_GROUPS:
        elements = (
            plan.optimizer_slots if group == OPTIMIZER_SLOTS else plan.parameters.get(group)
        )
        whole = f"{elements:,}" if elements is not None else ""
        lines.append(f"{group:16s} {whole:>23s} {format_bytes(plan.memory[group]):>12s}")
    lines.append(
        f"{'total':16s} {sum(plan.parameters.values()):>23,} "
        f"{format_bytes(plan.total_bytes):>12s}"
    )
    lines.append(
        "(Parameters are those of the whole model. The other rows are the fullest moment of a\n"
        "step: the start of the backward pass, or the update. Activations are the forward\n"
        "tensors that the backward pass reads, with elementwise operations recomputed. If XLA\n"
        f"fused nothing, they would take {format_bytes(plan.activations_unfused)}.)"
    )
    return "\n".join(lines)


def _format_collectives(plan: Plan) -> str:
    lines = [
        "collectives of a step    axis        dtype     operand of a core      count  operands"
        "      on the wire",
    ]
    for item in plan.collectives[:_MAX_COLLECTIVES]:
        shape = "[" + ",".join(str(size) for size in item.shape) + "]"
        lines.append(
            f"{item.kind:14s} {item.phase:9s} {item.axis:11s} {item.dtype:9s} {shape:22s} "
            f"{item.count:5d}  {format_bytes(item.operand_bytes):>11s}  "
            f"{format_bytes(item.wire_bytes):>11s}"
        )
    rest = plan.collectives[_MAX_COLLECTIVES:]
    if rest:
        lines.append(
            f"and {len(rest)} smaller rows ({sum(item.count for item in rest)} collectives)  "
            f"{format_bytes(sum(item.wire_bytes for item in rest))} on the wire"
        )
    lines.append(
        f"total: each core sends {format_bytes(plan.wire_bytes)}. For an operand of b bytes in "
        "a group of k cores,\nit sends 2 b (k - 1) / k in an all-reduce (as a ring) and "
        "b (k - 1) / k in an all-to-all."
    )
    return "\n".join(lines)


def format_seconds(seconds: float) -> str:
    """Formats a time, such as "48.2 ms"."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def format_comparison(plans: Mapping[str, Plan]) -> str:
    """Formats plans as the rows of a table."""
    width = max(len(name) for name in plans)
    head = "cores      memory  fits        sent    compute  all-to-all  all-reduce"
    lines = [f"{'layout':{width}s}  {head}       step  bottleneck  tokens/s/core"]
    for name, plan in plans.items():
        times = [format_seconds(getattr(plan.estimate, field)) for field, _ in _TIMES.values()]
        lines.append(
            f"{name:{width}s}  {plan.layout.size:5d}  {format_bytes(plan.total_bytes):>10s}  "
            f"{'yes ' if plan.fits else 'no  '}  {format_bytes(plan.wire_bytes):>10s}  "
            f"{times[0]:>9s}  {times[1]:>10s}  {times[2]:>10s}  "
            f"{format_seconds(plan.estimate.step_seconds):>9s}  "
            f"{_name_bottleneck(plan):10s}  {_tokens_per_core(plan):13,.0f}"
        )
    return "\n".join(lines)


def _name_bottleneck(plan: Plan) -> str:
    return plan.estimate.bottleneck.replace("_", "-")


def _tokens_per_core(plan: Plan) -> float:
    """Returns the input tokens per second and core."""
    return plan.tokens_per_second / plan.layout.size


def recommend_layout(plans: Mapping[str, Plan]) -> str:
    """Recommends a layout and names its trade-offs (Section 5.5; Future Work, item 3).

    It recommends the layout with the most tokens per second among those that fit. If the
    layouts have different numbers of cores, the text also names the one with the most tokens
    per second and core. Section 5.5 describes the trade-off: model parallelism frees memory but
    costs an all-reduce per layer, and experts cost all-to-alls but no FLOPs.

    Args:
      plans: The name of each layout and its plan.
    """
    fitting = {name: plan for name, plan in plans.items() if plan.fits}
    if not fitting:
        nearest = min(plans, key=lambda name: plans[name].total_bytes)
        return f"None of the layouts fits. {nearest} is the nearest: {plans[nearest].verdict}"
    best = max(fitting, key=lambda name: fitting[name].tokens_per_second)
    plan = fitting[best]
    lines = [
        f"Recommended: {best}. It processes the most input tokens per second among the layouts "
        f"that fit ({plan.tokens_per_second:,.0f}, with "
        f"{format_seconds(plan.estimate.step_seconds)} per step). Its bottleneck is "
        f"{_name_bottleneck(plan)}."
    ]
    thriftiest = max(fitting, key=lambda name: _tokens_per_core(fitting[name]))
    if thriftiest != best and fitting[thriftiest].layout.size != plan.layout.size:
        lines.append(
            f"{thriftiest} processes the most tokens per core: "
            f"{_tokens_per_core(fitting[thriftiest]):,.0f} tokens/s instead of "
            f"{_tokens_per_core(plan):,.0f}."
        )
    faster = [
        name
        for name, other in plans.items()
        if not other.fits and other.tokens_per_second > plan.tokens_per_second
    ]
    if faster:
        lines.append(
            f"{' and '.join(faster)} would be faster but "
            f"{'does' if len(faster) == 1 else 'do'} not fit: more model parallelism or "
            "smaller microbatches trade time for memory."
        )
    return " ".join(lines)


def draw_plans(figure: Figure, plans: Mapping[str, Plan], model: str) -> None:
    """Draws stacked bars per plan: memory by group, bytes sent by kind, time by part.

    Args:
      figure: An empty figure.
      plans: The label of each bar and its plan.
      model: The model's name, for the title.
    """
    from matplotlib import colormaps

    # The titles and the legends need 2.8 inches.
    figure.set_size_inches(14, 2.8 + 0.45 * len(plans))
    colors = colormaps[_MEMORY_COLORS].resampled(len(MEMORY_GROUPS)).colors
    memory, wires, times = figure.subplots(1, 3, sharey=True)
    names = list(plans)[::-1]
    rows = [plans[name] for name in names]
    _draw_bars(
        memory,
        names,
        {
            group: ([plan.memory[group] / 2**30 for plan in rows], tuple(colors[index]))
            for index, group in enumerate(MEMORY_GROUPS)
        },
    )
    limit = rows[0].estimate.hbm_bytes / 2**30
    memory.axvline(limit, color="black", linestyle="--", linewidth=1)
    memory.set_xlabel(f"GiB per core (dashed line: {limit:.4g} GiB, the limit)")
    _draw_bars(
        wires,
        names,
        {
            label: ([_sum_wire_bytes(plan, kind) / 2**30 for plan in rows], color)
            for kind, (label, color) in _WIRES.items()
        },
    )
    wires.set_xlabel("GiB that a core sends per step")
    _draw_bars(
        times,
        names,
        {
            label: ([1e3 * getattr(plan.estimate, field) for plan in rows], color)
            for label, (field, color) in _TIMES.items()
        },
    )
    times.set_xlabel("estimated ms per step")
    figure.suptitle(_describe_plans(list(plans.values()), model))
    for axes in (memory, wires, times):
        axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5)


def _describe_plans(plans: Sequence[Plan], model: str) -> str:
    """Describes the model, the layout, the batch and the hardware of plans, for a title."""
    rules = sorted({plan.layout.layout_rules for plan in plans})
    parameters = _format_range([sum(plan.parameters.values()) for plan in plans])
    tokens = _format_range([plan.batch_tokens for plan in plans])
    cores = _format_range([plan.layout.size for plan in plans])
    layout = f"layout {rules[0]}" if len(rules) == 1 else f"{len(rules)} sets of layout rules"
    return (
        f"{model}: {parameters} parameters, {tokens} input tokens per step\n"
        f"{cores} cores of {plans[0].estimate.hardware}, {layout}"
    )


def _format_range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _sum_wire_bytes(plan: Plan, kind: CollectiveKind) -> float:
    return sum(item.wire_bytes for item in plan.collectives if item.kind == kind)


def _draw_bars(
    axes: Axes, names: Sequence[str], parts: Mapping[str, tuple[list[float], str]]
) -> None:
    """Draws stacked bars, without the parts that would be too thin to see."""
    left = [0.0] * len(names)
    for label, (values, color) in parts.items():
        if any(value > 0.002 * sum(left + values) for value in values):
            axes.barh(names, values, left=left, label=label, color=color)
        left = [a + b for a, b in zip(left, values)]
