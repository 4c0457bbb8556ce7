"""Keeps results of `portable_run.py`, and makes tables of docs/performance.md from them.

    python benchmarks/portable_table.py results/*.json

The results go to docs/gpu.json, without the profile. Those of other steps stay as they are.
Without arguments, only the tables are made again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measure
import page_table

from mtf_switch import whole_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/gpu.json"
PAGE = ROOT / "docs/performance.md"
_LEFT_OUT = ("profile",)
_DIFFERENCES = "relative_differences"
# Results of a step whose differences have a column.
_COMPARED = ("loss", "gradient_norm")


def main(arguments: Sequence[str] | None = None) -> None:
    """Keeps the results in the named files, and makes the tables."""
    results = read_results()
    for path in sys.argv[1:] if arguments is None else arguments:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        results[found["name"]] = {k: v for k, v in found.items() if k not in _LEFT_OUT}
    whole_file.write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    page_table.replace(PAGE, "benchmarks/portable_table.py", format_page(results))


def read_results() -> dict[str, Any]:
    """Returns the results that are kept, by the name of the step."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def format_page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats the tables: the speed of steps, and the differences of others."""
    timed = [found for found in results.values() if _DIFFERENCES not in found]
    compared = [found for found in results.values() if _DIFFERENCES in found]
    commits: dict[str, set[str]] = {}
    for found in results.values():
        machine = (
            f"{found['device']} with driver {found['driver']}, {found['cpu_cores']} CPU cores, "
            f"JAX {found['jax']}"
        )
        commits.setdefault(machine, set()).add(found["commit"])
    origins = [
        f"{machine}; steps of commit {' and '.join(sorted(each))}."
        for machine, each in sorted(commits.items())
    ]
    return "\n\n".join(
        [make_speed_table(timed), make_difference_table(compared), " ".join(origins)]
    )


def make_speed_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Formats the speed of each step."""
    headers = ["step", "tokens", "ms (quartiles)", "tokens/s", "TFLOP/s", "of the peak"]
    headers += ["TFLOP/s of Table 9", "memory", "compiled in"]
    rows = []
    for found in results:
        low, high = (1000 * each for each in found["quartiles"])
        share = found["peak_share"]
        rows.append(
            [
                *(found["name"], f"{found['tokens_per_step']:,}"),
                f"{1000 * found['median_seconds']:.1f} ({low:.1f} to {high:.1f})",
                f"{found['tokens_per_second']:,.0f}",
                f"{found['flops_per_second'] / 1e12:.1f}",
                f"{share:.1%}" if share else "",
                f"{found['model_flops_per_second'] / 1e12:.1f}",
                f"{found['peak_bytes'] / 2**30:.1f} GiB" if found["peak_bytes"] else "",
                f"{found['compile_seconds']:.0f} s",
            ]
        )
    return measure.format_table(headers, rows)


def make_difference_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Formats the largest differences of each step's results."""
    headers = ["step", "first loss", *(f"largest of {name}" for name in _COMPARED)]
    rows = []
    for found in results:
        differences = found[_DIFFERENCES]
        rows.append(
            [
                *(found["name"], f"{differences['loss'][0]:.1e}"),
                *(f"{max(differences[name]):.1e}" for name in _COMPARED),
            ]
        )
    return measure.format_table(headers, rows)


if __name__ == "__main__":
    main()
