"""A plan, or several compared, as text, as JSON and as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtf_switch.errors import UserError
from mtf_switch.planning.communication import ALL_REDUCE, ALL_TO_ALL, PERMUTE
from mtf_switch.planning.planner import MEMORY_GROUPS, Plan, size_text
from mtf_switch.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINGLE, COMPARISON = "plan", "compare"
_TIMES = {
    "compute": ("compute_seconds", "tab:blue"),
    "all-to-all": ("all_to_all_seconds", "tab:orange"),
    "all-reduce": ("all_reduce_seconds", "tab:green"),
}
_WIRES = (
    (ALL_TO_ALL, "all-to-all", "tab:orange"),
    (ALL_REDUCE, "all-reduce", "tab:green"),
    (PERMUTE, "permute", "tab:red"),
)
# Rows of exchanges shown; the JSON has all.
_SHOWN = 12


def check_folder(folder: str, is_comparison: bool) -> None:
    """Refuses a folder that holds such a report already, before minutes are spent.

    Raises:
      UserError: that names the file.
    """
    path = Path(folder) / f"{COMPARISON if is_comparison else SINGLE}.json"
    if path.exists():
        raise UserError(f"{path} is there already. Choose another --output_dir, or remove it.")


def single(plan: Plan) -> Report:
    """The report of one plan."""
    return _report(SINGLE, text(plan), plan.as_json(), {plan.layout.mesh_shape: plan})


def comparison(plans: Mapping[str, Plan]) -> Report:
    """The report of several plans of one model.

    Args:
      plans: by name of the layout.
    """
    data = {
        "plans": {name: plan.as_json() for name, plan in plans.items()},
        "recommendation": recommendation(plans),
    }
    lines = compare_table(plans) + "\n\n" + data["recommendation"]
    return _report(COMPARISON, lines, data, plans)


def _report(name: str, lines: str, data: dict[str, Any], plans: Mapping[str, Plan]) -> Report:
    return Report(
        name,
        lines,
        data,
        documents={f"{name}.txt": lines + "\n"},
        plots={f"{name}.png": lambda figure: draw(figure, plans)},
    )


def text(plan: Plan) -> str:
    """A plan as text for the screen."""
    estimate = plan.estimate
    parts = [
        f"{plan.layout.size} cores ({plan.layout.mesh_shape}) of {estimate.hardware}",
        f"rules: {plan.layout.layout_rules}",
        f"a step: {plan.sequences:,} sequences, {plan.batch_tokens:,} tokens of input"
        + (f", {plan.microbatches} microbatches" if plan.microbatches > 1 else ""),
        "",
        _memory_table(plan),
        "",
        _collectives_table(plan),
        "",
        f"FLOPs of a sequence, forward (as Table 9 counts)  {plan.flops_per_sequence:.4g}",
        f"FLOPs of a step, all cores, all products          {plan.flops_per_step:.4g}",
        f"arithmetic intensity of a core's products         "
        f"{plan.arithmetic_intensity:.0f} FLOP/byte",
        f"FLOPs of a core per byte that it sends            "
        f"{sum(plan.core_flops.values()) / max(plan.wire_bytes, 1):.4g}",
        "",
        f"estimate of a step, nothing overlapped, everything at its peak: "
        f"{seconds_text(estimate.step_seconds)}",
        *(
            f"  {name:11s} {seconds_text(getattr(estimate, field)):>9s}"
            f"  {getattr(estimate, field) / estimate.step_seconds:4.0%}"
            for name, (field, _) in _TIMES.items()
        ),
        f"{estimate.binds.replace('_', '-')} binds; "
        f"{plan.batch_tokens / estimate.step_seconds:,.0f} tokens of input/s",
        "",
        plan.verdict,
        "",
        f"planned in {plan.seconds_to_plan:.0f} s with {size_text(plan.peak_rss_bytes)}",
    ]
    return "\n".join(parts)


def _memory_table(plan: Plan) -> str:
    lines = ["on each core                  parameters        bytes"]
    for group in MEMORY_GROUPS:
        count = plan.parameters.get(group)
        of_all = f"{count:,}" if count is not None else ""
        if group == "optimizer_slots":
            of_all = f"{plan.slots:,}"
        lines.append(f"{group:16s} {of_all:>23s} {size_text(plan.per_core[group]):>12s}")
    lines.append(
        f"{'total':16s} {sum(plan.parameters.values()):>23,} {size_text(plan.total_bytes):>12s}"
    )
    lines.append(
        "(parameters: of the whole model. activations: forward tensors that the backward pass "
        f"reads,\nelementwise ones done over; {size_text(plan.activations_unfused)} if XLA "
        "fused nothing. gradients: all at once.)"
    )
    return "\n".join(lines)


def _collectives_table(plan: Plan) -> str:
    lines = [
        "exchanges of a step      axis        dtype     of a core's            count  operands"
        "      on the wire",
    ]
    for item in plan.collectives[:_SHOWN]:
        shape = "[" + ",".join(str(size) for size in item.shape) + "]"
        lines.append(
            f"{item.kind:14s} {item.phase:9s} {item.axis:11s} {item.dtype:9s} {shape:22s} "
            f"{item.count:5d}  {size_text(item.operand_bytes):>11s}  "
            f"{size_text(item.wire_bytes):>11s}"
        )
    rest = plan.collectives[_SHOWN:]
    if rest:
        lines.append(
            f"and {len(rest)} smaller kinds ({sum(item.count for item in rest)} exchanges)  "
            f"{size_text(sum(item.wire_bytes for item in rest))} on the wire"
        )
    lines.append(
        f"all: {size_text(plan.wire_bytes)} on the wire a core. On the wire: all-reduce of b "
        "bytes over k cores\nas a ring, 2 b (k - 1) / k; all-to-all b (k - 1) / k."
    )
    return "\n".join(lines)


def seconds_text(seconds: float) -> str:
    """Seconds as people read them: 48.2 ms."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def compare_table(plans: Mapping[str, Plan]) -> str:
    """Plans side by side."""
    width = max(len(name) for name in plans)
    head = "cores      memory  fits        sent    compute  all-to-all  all-reduce"
    lines = [f"{'layout':{width}s}  {head}       step  binds       tokens/s/core"]
    for name, plan in plans.items():
        times = [seconds_text(getattr(plan.estimate, field)) for field, _ in _TIMES.values()]
        lines.append(
            f"{name:{width}s}  {plan.layout.size:5d}  {size_text(plan.total_bytes):>10s}  "
            f"{'yes ' if plan.fits else 'no  '}  {size_text(plan.wire_bytes):>10s}  "
            f"{times[0]:>9s}  {times[1]:>10s}  {times[2]:>10s}  "
            f"{seconds_text(plan.estimate.step_seconds):>9s}  "
            f"{plan.estimate.binds.replace('_', '-'):10s}  {_rate(plan):13,.0f}"
        )
    return "\n".join(lines)


def _cause(plan: Plan) -> str:
    return plan.estimate.binds.replace("_", "-").capitalize()


def _rate(plan: Plan) -> float:
    """Tokens of input per second and core."""
    return plan.batch_tokens / plan.estimate.step_seconds / plan.layout.size


def recommendation(plans: Mapping[str, Plan]) -> str:
    """Which layout to take, and what is traded for it (Section 5.5; Future work 3).

    Of those that fit, the one with the most tokens a second; of several sizes of pod, it also
    names the one that makes the most of each core. Section 5.5's trade-off: model parallelism
    frees memory and costs an all-reduce in each layer; experts cost all-to-alls, no FLOPs.
    """
    fitting = {name: plan for name, plan in plans.items() if plan.fits}
    if not fitting:
        nearest = min(plans, key=lambda name: plans[name].total_bytes)
        return f"None fits. The nearest is {nearest}. {plans[nearest].verdict}"
    best = max(fitting, key=lambda name: _rate(fitting[name]) * fitting[name].layout.size)
    plan = fitting[best]
    lines = [
        f"Recommended: {best}, of those that fit the one with the most tokens of input a "
        f"second ({plan.batch_tokens / plan.estimate.step_seconds:,.0f}; a step of "
        f"{seconds_text(plan.estimate.step_seconds)}). {_cause(plan)} binds it."
    ]
    thrifty = max(fitting, key=lambda name: _rate(fitting[name]))
    if thrifty != best and fitting[thrifty].layout.size != plan.layout.size:
        lines.append(
            f"{thrifty} does the most on each core: {_rate(fitting[thrifty]):,.0f} tokens/s "
            f"instead of {_rate(plan):,.0f}."
        )
    quicker = [
        name
        for name, other in plans.items()
        if not other.fits and _rate(other) * other.layout.size > _rate(plan) * plan.layout.size
    ]
    if quicker:
        lines.append(
            f"{' and '.join(quicker)} would be quicker and "
            f"{'does' if len(quicker) == 1 else 'do'} not fit: more model parallelism or "
            "smaller microbatches trade time for memory."
        )
    return " ".join(lines)


def draw(figure: Figure, plans: Mapping[str, Plan]) -> None:
    """Stacked bars: memory of a core by group, what it sends, time of a step by cause."""
    figure.set_size_inches(14, 1.6 + 0.45 * len(plans))
    memory, wires, times = figure.subplots(1, 3, sharey=True)
    names = list(plans)[::-1]
    _bars(
        memory,
        names,
        {
            group: ([plans[name].per_core[group] / 2**30 for name in names], f"C{index}")
            for index, group in enumerate(MEMORY_GROUPS)
        },
    )
    limit = next(iter(plans.values())).estimate.hbm_bytes / 2**30
    memory.axvline(limit, color="black", linestyle="--", linewidth=1)
    memory.set_xlabel(f"GiB a core (dashed: the {limit:.0f} GiB it has)")
    _bars(
        wires,
        names,
        {
            label: ([_sent(plans[name], kind) / 2**20 for name in names], color)
            for kind, label, color in _WIRES
        },
    )
    wires.set_xlabel("MiB that a core sends a step")
    _bars(
        times,
        names,
        {
            label: ([1e3 * getattr(plans[name].estimate, field) for name in names], color)
            for label, (field, color) in _TIMES.items()
        },
    )
    times.set_xlabel("estimated ms a step")
    for axes in (memory, wires, times):
        axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5)


def _sent(plan: Plan, kind: str) -> float:
    return sum(item.wire_bytes for item in plan.collectives if item.kind == kind)


def _bars(axes: Axes, names: list[str], parts: dict[str, tuple[list[float], str]]) -> None:
    left = [0.0] * len(names)
    for label, (values, color) in parts.items():
        if any(value > 0.002 * sum(left + values) for value in values):
            axes.barh(names, values, left=left, label=label, color=color)
        left = [a + b for a, b in zip(left, values)]
