"""Times decoding, token by token, with a cache of keys and values.

    python benchmarks/decode.py --competitors this other hf --other path/to/checkout \\
        --hf_python path/to/python

`this` is this checkout, `other` another checkout of this project, and `hf` is transformers'
`generate`. The model is that of `train_step.py`, with random weights. Every sequence is decoded
to its full length. Each competitor has a process of its own, and they take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import sizes
import timing

COMPETITORS = ("this", "other", "hf")
_FOLDER = Path(__file__).parent


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the options; the defaults are those of docs/performance.md."""
    parser = measure.make_parser(__doc__.split("\n", 1)[0], COMPETITORS)
    parser.set_defaults(competitors=["this"], repetitions=9)
    add = parser.add_argument
    add("--other", help="folder of another checkout of this project, for `other`")
    add("--batches", nargs="+", type=int, default=[1, 8, 64], help="rows of a greedy batch")
    add("--beam_batches", nargs="*", type=int, default=[8], help="rows of a beam-4 batch")
    for field in dataclasses.fields(sizes.Model):
        if field.name not in ("batch_size", "dtype"):
            default = {"experts": 8, "targets": 64}.get(field.name, field.default)
            add(f"--{field.name}", type=type(default), default=default, help=" ")
    add("--clock", choices=["wall", "cpu"], default="wall", help="cpu: of all threads")
    options = parser.parse_args(arguments)
    measure.check_options(options, parser)
    if "other" in options.competitors and not options.other:
        parser.error("the competitor other needs --other")
    return options


def measure_decoding(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a result for each competitor, batch size and number of beams.

    Raises:
      UserError: If another checkout or environment cannot run it.
    """
    cases = [(rows, 1) for rows in options.batches] + [(n, 4) for n in options.beam_batches]
    fields = [field.name for field in dataclasses.fields(sizes.Model)]
    values = {name: getattr(options, name) for name in fields if hasattr(options, name)}
    for rows, beams in cases:
        setting = dataclasses.asdict(sizes.Model(**{**values, "batch_size": rows}))
        setting |= {"beams": beams, "clock": options.clock}
        competitors = {name: _start(name, setting, options) for name in options.competitors}
        label = f"{rows} x {beams}"
        base = options.competitors[0]
        for result in measure.compare_competitors(
            competitors, options.repetitions, label, base=base
        ):
            tokens_per_second = rows * options.targets / result["seconds"]
            yield {**setting, **result, "base": base, "tokens_per_second": tokens_per_second}


def _start(
    name: str, setting: dict[str, Any], options: argparse.Namespace
) -> timing.Competitor:
    if name == "hf":
        return timing.time_in_another_process(options.hf_python, "decode", setting)
    checkout = options.other if name == "other" else _FOLDER.parent
    return timing.time_worker(
        [sys.executable, str(_FOLDER / "decode_worker.py")],
        setting,
        {**os.environ, "PYTHONPATH": str(Path(checkout).absolute())},
        f"the checkout {checkout}",
    )


def format_results(results: list[dict[str, Any]]) -> str:
    """Formats a table with a row for each competitor, batch size and number of beams."""
    rows = []
    for result in results:
        low, high = result["ratio_quartiles"]
        ratio = result[f"ratio_to_{result['base']}"]
        rows.append(
            [
                str(result["batch_size"]),
                str(result["beams"]),
                result["competitor"],
                f"{1e3 * result['seconds']:.0f}",
                f"{result['tokens_per_second']:,.0f}",
                f"{ratio:.2f}",
                f"{low:.2f}-{high:.2f}",
            ]
        )
    base = results[0]["base"]
    headers = ["batch", "beams", "competitor", "ms", "tokens/s", f"ms of {base}", "quartiles"]
    return measure.format_table(headers, rows)


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and returns its exit code."""
    return measure.run_benchmark(
        "decode", parse_options(arguments), measure_decoding, format_results
    )


if __name__ == "__main__":
    sys.exit(main())
