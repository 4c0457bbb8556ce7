"""Times whole training steps, optimizer included, of sparse models and a dense one.

    python benchmarks/train_step.py --experts 8 32 --competitors dense gather

The models have an encoder and a decoder in which every other feed-forward layer is sparse. They
train on random tokens, through the same code as `run_switch.py train`. The competitors are
`dense`; `einsum` and `gather`, this project's Switch layer with that `dispatch` (on one core,
`gather` sorts); `upstream`, Mesh TF's MoE1D and embeddings; and `hf` and `hf_dense`,
transformers' models in the environment of --hf_python. There is no jitter and no dropout.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import measure
import sizes
import timing

from mtf_switch.upstream import logs

COMPETITORS = ("dense", "gather", "einsum", "upstream", "hf", "hf_dense")


def parse_options(
    arguments: list[str] | None, description: str = __doc__
) -> argparse.Namespace:
    """Parses the options; the default sizes are those of docs/performance.md."""
    parser = measure.make_parser(description.split("\n", 1)[0], COMPETITORS)
    add = parser.add_argument
    add("--experts", nargs="+", type=int, default=[8, 32], help="E")
    for field in dataclasses.fields(sizes.Model):
        if field.name != "experts":
            add(f"--{field.name}", type=type(field.default), default=field.default, help=" ")
    options = parser.parse_args(arguments)
    measure.check_options(options, parser)
    return options


def measure_steps(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a result for each competitor; for sparse ones, one for each number of experts.

    Raises:
      UserError: If the sizes do not divide.
    """
    logs.show_errors_only()
    # This import takes seconds, and parsing the options does not need it.
    import step_graphs

    settings, competitors = {}, {}
    for name, setting in list_cases(options):
        label = name if setting.experts == 1 else f"{name} {setting.experts}"
        settings[label] = setting
        competitors[label] = _make_competitor(name, setting, options, step_graphs)
    for result in measure.compare_competitors(
        competitors, options.repetitions, "training steps"
    ):
        setting = settings[result["competitor"]]
        yield {
            **result,
            **dataclasses.asdict(setting),
            "competitor": result["competitor"].split()[0],
            "tokens": setting.tokens,
            "flops": setting.flops,
            "tokens_per_second": setting.tokens / result["seconds"],
        }


def list_cases(options: argparse.Namespace) -> list[tuple[str, sizes.Model]]:
    """Lists what is measured: the name of a competitor and the sizes of its model."""
    fields = [field.name for field in dataclasses.fields(sizes.Model)]
    values = {name: getattr(options, name) for name in fields}
    return [
        (name, sizes.Model(**{**values, "experts": experts}))
        for name in options.competitors
        for experts in ([1] if "dense" in name else options.experts)
    ]


def _make_competitor(
    name: str, setting: sizes.Model, options: argparse.Namespace, step_graphs: Any
) -> timing.Competitor:
    if name.startswith("hf"):
        return timing.time_in_another_process(
            options.hf_python, "step", dataclasses.asdict(setting)
        )
    return timing.time_in_this_process(*step_graphs.build_step(name, setting))


def format_results(results: list[dict[str, Any]]) -> str:
    """Formats a table with a row for each competitor."""
    rows = []
    for result in results:
        relative = spread = ""
        if result["ratio_to_dense"]:
            relative = f"{1 / result['ratio_to_dense']:.2f}"
            low, high = result["ratio_quartiles"]
            spread = f"{1 / high:.2f}-{1 / low:.2f}"
        rows.append(
            [
                result["competitor"],
                str(result["experts"]),
                f"{1e3 * result['seconds']:.0f}",
                f"{result['tokens_per_second']:,.0f}",
                relative,
                spread,
                _format_peak_share(result),
            ]
        )
    headers = ["competitor", "experts", "ms", "tokens/s", "of dense", "quartiles", "of peak"]
    return (
        f"{measure.format_table(headers, rows)}\n\n"
        "The ratio of tokens/s to the dense model's is that of the same turn (median and "
        "quartiles). The peak is the rate of one large product with the same library."
    )


def _format_peak_share(result: dict[str, Any]) -> str:
    """Formats the FLOP/s of the products that the model needs, as a share of the peak."""
    library = "torch" if result["competitor"].startswith("hf") else "tensorflow"
    if result["dtype"] != "float32":
        return ""
    return f"{result['flops'] / result['seconds'] / result[measure.GEMM_RATES][library]:.2f}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and returns its exit code."""
    return measure.run_benchmark(
        "train_step", parse_options(arguments), measure_steps, format_results
    )


if __name__ == "__main__":
    sys.exit(main())
