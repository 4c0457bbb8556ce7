"""The report of `run_switch.py experts`: a page, plots, a token browser, JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mtf_switch.analysis import plots, report_page, token_kinds
from mtf_switch.analysis.layer_analysis import Row
from mtf_switch.analysis.trace_analysis import Analysis
from mtf_switch.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "experts"
BROWSER = "tokens.html"
PLOTS = tuple(
    f"{name}.png"
    for name in (
        *("measures", "steps", "load", "kinds", "domains", "coactivation", "drops"),
        "importance",
    )
)
FILES = (f"{NAME}.json", f"{NAME}.md", f"{NAME}.csv", BROWSER, *PLOTS)


def make_report(analysis: Analysis, browser: str, command: str) -> Report:
    """Makes the report of an analysis.

    Args:
      analysis: The analysis.
      browser: The HTML page of the token browser.
      command: The command line, for the page.
    """
    drawn = _choose_plots(analysis)
    return Report(
        name=NAME,
        text=report_page.format_summary(analysis),
        data=to_data(analysis),
        documents={
            f"{NAME}.md": report_page.format_page(analysis, list(drawn), command),
            f"{NAME}.csv": format_csv(analysis.rows),
            BROWSER: browser,
        },
        plots=drawn,
    )


def _choose_plots(analysis: Analysis) -> dict[str, Callable[[Figure], None]]:
    """Returns the plots that have something to show, by file name."""
    layers, last = analysis.layers, analysis.info.steps[-1]
    rows = [row for row in analysis.rows if row.step == last]
    draw = functools.partial
    found = {
        "load.png": draw(plots.draw_load, loads={n: x.load for n, x in layers.items()}),
        "kinds.png": draw(
            plots.draw_heat_maps,
            tables={name: result.kinds for name, result in layers.items()},
            labels=token_kinds.KINDS,
            what="kind of token by expert",
        ),
    }
    # With one expert there is nothing to measure.
    if rows:
        found["measures.png"] = draw(plots.draw_measures, rows=rows)
    if rows and len(analysis.info.steps) > 1:
        found["steps.png"] = draw(plots.draw_steps, rows=analysis.rows)
    if len(analysis.info.domains) > 1:
        found["domains.png"] = draw(
            plots.draw_heat_maps,
            tables={name: result.domains for name, result in layers.items()},
            labels=analysis.info.domains,
            what="domain by expert",
        )
    pairs = {n: x.coactivation for n, x in layers.items() if x.coactivation is not None}
    if pairs:
        found["coactivation.png"] = draw(plots.draw_coactivation, tables=pairs)
    dropped = {n: x.dropped_by_position for n, x in layers.items() if x.dropped}
    if dropped:
        found["drops.png"] = draw(plots.draw_drops, shares=dropped)
    if analysis.importance:
        found["importance.png"] = draw(plots.draw_importance, rows=analysis.importance)
    return found


def format_csv(rows: list[Row]) -> str:
    """Formats a line for each row; see `Analysis`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = ("value", "low", "high", "null_mean", "null_low", "null_high", "excess", "p_value")
    writer.writerow(["step", "layer", "measure", "null", *fields, "q_value", "source"])
    for row in rows:
        values = [f"{getattr(row.tested, field):.6g}" for field in fields]
        writer.writerow(
            [
                *(row.step, row.layer, row.measure, row.tested.null, *values),
                *(f"{row.q_value:.6g}", row.source),
            ]
        )
    return text.getvalue()


def to_data(analysis: Analysis) -> dict[str, Any]:
    """Returns the content of the JSON file."""
    info = dataclasses.asdict(analysis.info)
    del info["pieces"], info["tokens_per_file"]
    return {
        "trace": info,
        "measures": [_row_to_data(row) for row in analysis.rows],
        "layers": {
            name: {
                "load": result.load.tolist(),
                "gate_quantiles": {
                    "5%": result.gate[0],
                    "50%": result.gate[1],
                    "95%": result.gate[2],
                },
                "router_entropy": result.entropy,
                "dropped": result.dropped,
                "dropped_by_position": result.dropped_by_position.tolist(),
                "kinds": dict(zip(token_kinds.KINDS, result.kinds.tolist())),
                "domains": dict(zip(analysis.info.domains, result.domains.tolist())),
                "coactivation": None
                if result.coactivation is None
                else result.coactivation.tolist(),
                "typical_tokens": [
                    report_page.list_typical(analysis, name, expert, 20)
                    for expert in range(len(result.load))
                ],
            }
            for name, result in analysis.layers.items()
        },
        "importance": [dataclasses.asdict(row) for row in analysis.importance],
        "matchings": [
            {
                "layer": one.layer,
                "tokens": one.table.tolist(),
                "partner": one.partner,
                "agreement": dataclasses.asdict(one.agreement),
            }
            for one in analysis.matchings
        ],
    }


def _row_to_data(row: Row) -> dict[str, Any]:
    data = {**dataclasses.asdict(row), **dataclasses.asdict(row.tested)}
    del data["tested"]
    return {name: None if _is_nan(value) else value for name, value in data.items()}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and bool(np.isnan(value))
