"""Compiles models for TPU pods that are not there, for the table of docs/tpu_compiler.md.

    .venv/bin/python benchmarks/compiled_cells.py tiny_expert_data switch_base_8
    .venv/bin/python benchmarks/compiled_cells.py --plan

Each cell is one `run_switch.py compile`. Its result goes to docs/tpu_compiler.json, from which
the table is made. Cells with a result are skipped, so that an interrupted run continues.
--plan plans all cells with a result again, which takes minutes, and compiles none. Without
arguments, only the table is made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import page_table

from mtf_switch import whole_file
from mtf_switch.errors import suggest_names

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/tpu_compiler.json"
PAGE = ROOT / "docs/tpu_compiler.md"
MIB, GIB = 2**20, 2**30


@dataclasses.dataclass(frozen=True)
class Cell:
    """A model under a layout.

    Attributes:
      model: A file of gin/models/, without its folder and extension.
      layout: A file of gin/layouts/.
      batch_tokens: Input tokens per step; None for 2^20.
      params: Further gin bindings.
      mode: The kind of step. Only training steps have a plan.
    """

    model: str
    layout: str
    batch_tokens: int | None = None
    params: tuple[str, ...] = ()
    mode: str = "train"

    def arguments(self) -> list[str]:
        """Returns the arguments of `run_switch.py compile`, without the mode."""
        tokens = [f"--batch_tokens={self.batch_tokens}"] if self.batch_tokens else []
        return [
            *(f"--gin_file=models/{self.model}.gin", f"--gin_file=layouts/{self.layout}.gin"),
            *(*tokens, *(f"--gin_param={param}" for param in self.params)),
        ]


_EIGHT_HEADS = ("num_heads = 8",)
_ONE_BLOCK = ("num_layers = 1",)
CELLS = {
    "tiny_data": Cell("switch_tiny", "data", 65536),
    "tiny_model": Cell("switch_tiny", "model", 65536, _EIGHT_HEADS),
    "tiny_model_data": Cell("switch_tiny", "model_data", 65536),
    "tiny_expert_data": Cell("switch_tiny", "expert_data", 65536),
    "tiny_expert_model_data": Cell("switch_tiny", "expert_model_data", 65536),
    "tiny_one_microbatch": Cell("switch_tiny", "expert_data", 8192, _ONE_BLOCK),
    "tiny_eval": Cell("switch_tiny", "expert_data", 65536, mode="eval"),
    "tiny_predict": Cell("switch_tiny", "expert_model_data", 65536, mode="predict"),
    "t5_tiny": Cell("t5_tiny", "data", 65536),
    "switch_base_tiny": Cell("switch_base_tiny", "expert_data", 65536),
    "switch_c_tiny": Cell("switch_c_tiny", "expert_data", 65536),
    "switch_xxl_tiny": Cell("switch_xxl_tiny", "expert_model_data", 65536),
    "switch_base_8": Cell("switch_base_8", "expert_8", 262144),
    "switch_base_8_eval": Cell("switch_base_8", "expert_8", 262144, mode="eval"),
    "switch_base_8_predict": Cell("switch_base_8", "expert_8", 262144, mode="predict"),
    "switch_base_16": Cell("switch_base_16", "expert_8", 262144),
    "switch_base_32": Cell("switch_base_32", "expert_32"),
    "switch_base_32_eval": Cell("switch_base_32", "expert_32", mode="eval"),
    "switch_base_32_predict": Cell("switch_base_32", "expert_32", mode="predict"),
    "switch_base_64": Cell("switch_base_64", "expert_32"),
    "switch_base": Cell("switch_base", "expert_32"),
    "switch_base_256": Cell("switch_base_256", "expert_32"),
    "switch_large": Cell("switch_large", "expert_model_512"),
    "switch_xxl": Cell("switch_xxl", "switch_xxl_512"),
    "switch_c": Cell("switch_c", "expert_2048"),
}


def main() -> None:
    """Compiles the named cells that have no result yet, and makes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"one of {', '.join(CELLS)}")
    parser.add_argument(
        "--plan", action="store_true", help="plan the cells with a result again"
    )
    options = parser.parse_args()
    for name in options.cells:
        if name not in CELLS:
            parser.error(f"there is no cell {name!r}.{suggest_names(name, CELLS)}")
    for name in options.cells:
        if name not in read_results():
            print(name, flush=True)
            write_result(name, compile_cell(CELLS[name]))
    for name, result in read_results().items() if options.plan else ():
        if result["planner"]:
            print(name, flush=True)
            write_result(name, {**result, "planner": plan_cell(CELLS[name])})
    page_table.replace(PAGE, "benchmarks/compiled_cells.py", make_table(read_results()))


def read_results() -> dict[str, Any]:
    """Returns the results so far."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def write_result(name: str, result: dict[str, Any]) -> None:
    """Writes the result of a cell, and keeps those of all others."""
    results = {**read_results(), name: result}
    ordered = {cell: results[cell] for cell in CELLS if cell in results}
    whole_file.write_text(RESULTS, json.dumps(ordered, indent=2) + "\n")


def compile_cell(cell: Cell) -> dict[str, Any]:
    """Compiles one cell, and returns what the table needs."""
    step = _run("compile", *cell.arguments(), f"--mode={cell.mode}")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return summarize(step, commit.stdout.strip())


def plan_cell(cell: Cell) -> dict[str, Any]:
    """Plans one cell, and returns the memory per core."""
    return _run("plan", *cell.arguments())["per_core"]


def _run(*arguments: str) -> dict[str, Any]:
    """Runs a command, and returns its JSON. A program that does not fit is a result, too."""
    command = [sys.executable, "run_switch.py", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)} failed")
    return json.loads(done.stdout)


def summarize(step: dict[str, Any], commit: str) -> dict[str, Any]:
    """Returns the part of a compiled step's JSON that the table needs."""
    compiler, plan = step["compiler"], step["plan"]
    refusal = compiler["refusal"]
    return {
        "commit": commit,
        "topology": compiler["topology"],
        "planner": plan and plan["per_core"],
        "compiler": compiler["bytes"],
        "refused_with_bytes": refusal and refusal["needed_bytes"],
        "usable_bytes": compiler["usable_bytes"],
        "seconds_to_lower": step["seconds_to_lower"],
        "seconds": compiler["seconds"],
        "cpu_seconds": compiler["cpu_seconds"],
        "peak_rss_bytes": compiler["peak_rss_bytes"],
        "versions": compiler["versions"],
    }


def make_table(results: dict[str, Any]) -> str:
    """Returns the table of the page."""
    lines = [
        "| cell | topology | planner | compiler | difference | arguments | temporaries | code "
        "| compiled in (CPU) | peak | commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in CELLS:
        result = results.get(name)
        cells = _describe(result) if result else ["not run"] + [""] * 9
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _describe(result: dict[str, Any]) -> list[str]:
    planned = result["planner"] and result["planner"]["total_bytes"]
    sizes = result["compiler"]
    time = f"{result['seconds']:.0f} s ({result['cpu_seconds']:.0f} s)"
    peak = f"{result['peak_rss_bytes'] / GIB:.1f} GiB"
    first = [result["topology"], _format(planned) if planned else "-"]
    last = [time, peak, result["commit"]]
    if sizes is None:
        needed = result["refused_with_bytes"]
        refused = f"refused: at least {_format(needed)}" if needed else "refused"
        return [*first, refused, *("", "", "", ""), *last]
    total = sizes["total"]
    parts = [_format(sizes[key]) for key in ("arguments", "temporaries", "code")]
    difference = f"{planned / total - 1:+.1%}" if planned else "-"
    return [*first, _format(total), difference, *parts, *last]


def _format(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


if __name__ == "__main__":
    main()
