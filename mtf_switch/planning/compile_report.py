"""Reports compiled steps as text, JSON and files, beside the plans for them."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from mtf_switch import whole_file
from mtf_switch.errors import UserError
from mtf_switch.planning import core_memory
from mtf_switch.planning.compiled_step import CompiledStep
from mtf_switch.planning.core_memory import format_bytes
from mtf_switch.programs.compilation import Compilation
from mtf_switch.programs.compiled_hlo import CompiledCollective
from mtf_switch.report import Report, check_is_new

_STEP, _COMPARISON = "compile", "compile_compare"
# The text shows this many rows of collectives; the JSON file has all of them.
_MAX_COLLECTIVES = 12
_EACH = "the compiler's collectives"
_MODES = {"train": "training", "eval": "evaluation", "predict": "decoding"}
# The line of the table -> the groups of the plan that it compares with.
_PLANNED = {
    "arguments": core_memory.VARIABLE_GROUPS,
    "temporaries": core_memory.TEMPORARY_GROUPS,
    "program code": (core_memory.CODE,),
}


def check_output_dir(folder: str, is_comparison: bool) -> None:
    """Checks that a folder holds no report of this kind yet; see `report.check_is_new`."""
    check_is_new(folder, _COMPARISON if is_comparison else _STEP)


def report_step(step: CompiledStep) -> Report:
    """Reports one compiled step."""
    text = format_step(step)
    return Report(_STEP, text, step.as_json(), {f"{_STEP}.txt": text + "\n"})


def append(report: Report, step: CompiledStep) -> Report:
    """Appends a compiled step to the report of its plan."""
    text = f"{report.text}\n\nThe same step, compiled\n\n{format_step(step)}"
    compiled = {key: value for key, value in step.as_json().items() if key != "plan"}
    return dataclasses.replace(
        report,
        text=text,
        data={**report.data, "compiled": compiled},
        documents={f"{report.name}.txt": text + "\n"},
    )


def report_comparison(steps: Mapping[str, CompiledStep]) -> Report:
    """Reports a step under several layouts.

    Args:
      steps: The name of each layout and the step that was compiled for it.
    """
    text = format_comparison(steps)
    data = {"steps": {name: step.as_json() for name, step in steps.items()}}
    return Report(_COMPARISON, text, data, {f"{_COMPARISON}.txt": text + "\n"})


def write(report: Report, steps: Mapping[str, CompiledStep], folder: str) -> None:
    """Writes a report and, for each step, its StableHLO, its signature and its compiled HLO.

    With several steps, the names of these files begin with the name of the layout.

    Raises:
      UserError: If a file cannot be written.
    """
    report.write(folder)
    try:
        for layout, step in steps.items():
            prefix = f"{Path(layout).stem}." if layout else ""
            base = Path(folder)
            signature = json.dumps(step.program.describe_signature(), indent=2) + "\n"
            whole_file.write_bytes(base / f"{prefix}program.mlirbc", step.program.stablehlo)
            whole_file.write_text(base / f"{prefix}signature.json", signature)
            if step.compilation.hlo:
                whole_file.write_text(base / f"{prefix}compiled.hlo.txt", step.compilation.hlo)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be written ({error.strerror}). Choose a folder that "
            "you may write to."
        ) from error


def format_step(step: CompiledStep) -> str:
    """Formats a compiled step as text for the screen."""
    outcome = step.compilation
    parts = [
        f"{_MODES[step.mode]} step on {outcome.topology}: {step.layout.size} {outcome.core} "
        f"cores ({step.layout.mesh_shape})",
        f"layout rules: {step.layout.layout_rules}",
        "",
        _format_memory(step),
    ]
    if outcome.bytes:
        parts += ["", _format_collectives(step)]
    return "\n".join([*parts, "", step.verdict, "", _format_cost(step)])


def _format_memory(step: CompiledStep) -> str:
    outcome = step.compilation
    lines = [f"{'memory per core':31s} {'planner':>12s} {'compiler':>12s}"]
    for name, compiled in _list_compiled(outcome):
        groups = _PLANNED.get(name)
        planned = (
            sum(step.plan.memory[each] for each in groups) if step.plan and groups else None
        )
        lines.append(_format_row(name, planned, compiled))
    total = outcome.bytes.total if outcome.bytes else None
    lines.append(_format_row("total", step.plan.total_bytes if step.plan else None, total))
    limit = step.plan.estimate.hbm_bytes if step.plan else None
    lines.append(_format_row("usable", limit, outcome.usable_bytes))
    lines.append(
        "(Arguments are the variables and the batch. Temporaries are the gradients, the\n"
        "activations and everything else that exists at the fullest moment of the step.)"
    )
    return "\n".join(lines)


def _list_compiled(outcome: Compilation) -> list[tuple[str, int | None]]:
    """Returns the lines of the compiler's memory; their sizes are None after a refusal."""
    sizes = outcome.bytes
    return [
        ("arguments", sizes and sizes.arguments),
        ("outputs in memory of their own", sizes and sizes.outputs - sizes.donated),
        ("temporaries", sizes and sizes.temporaries),
        ("program code", sizes and sizes.code),
    ]


def _format_row(name: str, planned: int | None, compiled: int | None) -> str:
    cells = ["-" if size is None else format_bytes(size) for size in (planned, compiled)]
    return f"{name:31s} {cells[0]:>12s} {cells[1]:>12s}"


def _format_collectives(step: CompiledStep) -> str:
    """Formats the graph's collectives by kind beside the compiler's, and lists the latter."""
    planned: collections.Counter[str] = collections.Counter()
    planned_bytes: collections.Counter[str] = collections.Counter()
    for item in step.plan.collectives if step.plan else ():
        planned[item.kind] += item.count
        planned_bytes[item.kind] += item.operand_bytes
    compiled: collections.Counter[str] = collections.Counter()
    compiled_bytes: collections.Counter[str] = collections.Counter()
    for item in step.compilation.collectives:
        compiled[_name_kind(item)] += item.count
        compiled_bytes[_name_kind(item)] += item.bytes * item.count
    lines = [
        f"{'collectives of a step':26s} {'in the graph (planner)':>22s} "
        f"{'after optimisation (compiler)':>31s}"
    ]
    for kind in sorted({*planned, *compiled}):
        left = f"{planned[kind]:,}  {format_bytes(planned_bytes[kind]):>11s}"
        right = f"{compiled[kind]:,}  {format_bytes(compiled_bytes[kind]):>11s}"
        lines.append(f"{kind:26s} {left if step.plan else '-':>22s} {right:>31s}")
    lines += ["", f"{_EACH:37s}  count  group  tensors  largest tensor"]
    for item in step.compilation.collectives[:_MAX_COLLECTIVES]:
        shape = f"{item.dtype}[{','.join(str(size) for size in item.shape)}]"
        lines.append(
            f"{_name_kind(item):26s} {format_bytes(item.bytes):>10s} {item.count:6d}  "
            f"{item.cores_per_group:5d}  {item.tensors:7d}  {shape}"
        )
    rest = step.compilation.collectives[_MAX_COLLECTIVES:]
    if rest:
        lines.append(f"and {sum(item.count for item in rest)} smaller ones")
    if any(item.per_iteration for item in step.compilation.collectives):
        lines.append(
            "(Per iteration: in a loop whose length depends on the data, as that of decoding.)"
        )
    return "\n".join(lines)


def _name_kind(item: CompiledCollective) -> str:
    return f"{item.kind}, per iteration" if item.per_iteration else item.kind


def _format_cost(step: CompiledStep) -> str:
    outcome = step.compilation
    compiler = " ".join(outcome.versions.get("compiler", "").split())
    return (
        f"lowered in {step.seconds_to_lower:.0f} s; compiled in {outcome.seconds:.0f} s "
        f"({outcome.cpu_seconds:.0f} s of CPU time) with "
        f"{format_bytes(outcome.peak_rss_bytes)} of memory\n"
        f"jax {outcome.versions['jax']}, {compiler}"
    )


def format_comparison(steps: Mapping[str, CompiledStep]) -> str:
    """Formats compiled steps as the rows of a table, and why some do not fit."""
    width = max(len("layout"), *(len(name) for name in steps))
    lines = [
        f"{'layout':{width}s}  {'topology':9s} {'planner':>10s} {'compiler':>10s}  fits  "
        f"{'temporaries':>11s} {'code':>10s} {'compiled in':>12s}"
    ]
    for name, step in steps.items():
        sizes = step.compilation.bytes
        cells = [sizes.total, sizes.temporaries, sizes.code] if sizes else [None] * 3
        total, temporaries, code = ("-" if c is None else format_bytes(c) for c in cells)
        planned = format_bytes(step.plan.total_bytes) if step.plan else "-"
        lines.append(
            f"{name:{width}s}  {step.compilation.topology:9s} {planned:>10s} {total:>10s}  "
            f"{'yes ' if step.fits else 'no  '}  {temporaries:>11s} {code:>10s} "
            f"{step.compilation.seconds:10.0f} s"
        )
    refused = [f"{name}: {step.verdict}" for name, step in steps.items() if not step.fits]
    return "\n".join([*lines, *(["", *refused] if refused else [])])
