"""The report of an exhibit: Markdown, CSV, JSON and a plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtf_switch import report
from mtf_switch.report import Report
from mtf_switch.reproduction import (
    claim_table,
    estimates,
    language_section,
    metrics,
    origin_warnings,
    results_csv,
    student_columns,
    verdicts,
)
from mtf_switch.reproduction.effects import Difference, Results
from mtf_switch.reproduction.estimates import format_estimate, format_number
from mtf_switch.reproduction.exhibit import Column, Exhibit, Row
from mtf_switch.reproduction.page_context import GENERATED, Context
from mtf_switch.reproduction.training_result import TrainingResult, describe_divergence
from mtf_switch.reproduction.verdicts import JudgedClaim

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def make_report(exhibit: Exhibit, results: Results, context: Context) -> Report:
    """Makes the report: NAME.json, .md, .csv and .png.

    Args:
      exhibit: The exhibit.
      results: The results of its rows.
      context: What the page says about them.
    """
    judged = verdicts.judge_all(exhibit, results)
    has_results = any(results.values())
    claims = claim_table.format_claims(judged)
    warnings = origin_warnings.format_warnings(exhibit, results, context)
    return Report(
        name=exhibit.name,
        text=f"{exhibit.label}: {exhibit.title}\n\n{format_table(exhibit, results)}\n\n"
        f"{claims}\n{warnings}".rstrip(),
        data=_to_data(exhibit, results, judged, context),
        documents={
            f"{exhibit.name}.md": format_page(exhibit, results, judged, context),
            f"{exhibit.name}.csv": results_csv.format_csv(exhibit, results),
        },
        plots={f"{exhibit.name}.png": lambda figure: _draw(figure, exhibit, results)}
        if has_results
        else {},
    )


def _draw(figure: Figure, exhibit: Exhibit, results: Results) -> None:
    if exhibit.by_language:
        language_section.draw(figure, exhibit, results)
        return
    # It imports NumPy, which the command line does not need otherwise.
    from mtf_switch.reproduction import plots

    plots.draw(figure, exhibit, results)


def format_page(
    exhibit: Exhibit, results: Results, judged: Sequence[JudgedClaim], context: Context
) -> str:
    """Formats the page of an exhibit."""
    lines = [GENERATED, "", f"# {exhibit.label}: {exhibit.title}", ""]
    lines += [f"Scale: {context.scale}. {describe_seeds(exhibit, results)}", ""]
    warnings = origin_warnings.format_warnings(exhibit, results, context)
    lines += [warnings, ""] if warnings else []
    lines += [format_table(exhibit, results), ""]
    lines += [_explain_table(exhibit), ""] if any(results.values()) else []
    lines += [
        "## Claims of the paper",
        "",
        claim_table.format_claims(judged),
        "",
    ]
    if exhibit.by_language:
        lines += [language_section.format_section(exhibit, results), ""]
    if any(results.values()):
        lines += [f"![{exhibit.title}]({exhibit.name}.png)", ""]
    lines += [f"- {note}" for note in exhibit.notes] + ([""] if exhibit.notes else [])
    lines += ["## How to repeat it", "", "```", context.format_command(exhibit.name), "```", ""]
    signatures = _signatures(exhibit, results)
    if signatures:
        summary = f"<summary>The {len(signatures)} results and what they depend on</summary>"
        lines += ["<details>", summary, "", *(f"- `{text}`" for text in signatures)]
        lines += ["", "</details>"]
    return "\n".join(lines).rstrip() + "\n"


def _explain_table(exhibit: Exhibit) -> str:
    if exhibit.is_computed:
        return "Ours is computed, without a seed. A claim has no interval."
    text = (
        "Ours is the mean over seeds +- the standard deviation, with the 95% interval of the "
        "mean in brackets."
    )
    if exhibit.compared_column is None:
        return text
    return (
        f"{text} Minus {exhibit.baseline} is the difference of the "
        f"{metrics.METRICS[exhibit.compared_column.metric]}; ours is paired by seed, over the "
        "seeds that both rows have."
    )


def describe_seeds(exhibit: Exhibit, results: Results) -> str:
    """Says how many seeds the rows have, or why none was run."""
    if exhibit.only_at_paper_scale:
        return exhibit.only_at_paper_scale
    counts = sorted({len(of_row) for of_row in results.values()})
    if not counts or counts[-1] == 0:
        return "No row was run yet."
    if exhibit.is_computed:
        return "All rows are computed, without a seed."
    few = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"Seeds of each row: {few}."


def _signatures(exhibit: Exhibit, results: Results) -> list[str]:
    found = [
        result.signature
        for row in exhibit.rows
        for _, result in sorted(results.get(row.name, {}).items())
    ]
    return list(dict.fromkeys(found))


def format_table(exhibit: Exhibit, results: Results) -> str:
    """Formats the table of an exhibit in Markdown, the paper's numbers beside ours."""
    heads = [""]
    for column in exhibit.columns:
        has_paper = any(column.metric in row.paper for row in exhibit.rows)
        heads += [f"paper: {column.title}"] if has_paper else []
        ours = f"ours: {column.title}" if has_paper else column.title
        heads += [ours] if column.is_measured else []
    main = exhibit.compared_column
    if main is not None:
        heads += [f"minus {exhibit.baseline}: {whose}" for whose in ("paper", "ours")]
    heads += student_columns.list_heads(exhibit)
    rows = []
    for row in exhibit.rows:
        cells = [row.title]
        for column in exhibit.columns:
            if any(column.metric in other.paper for other in exhibit.rows):
                cells.append(_format_paper(row, column))
            if column.is_measured:
                cells.append(_format_ours(row, results.get(row.name, {}), column))
        if main is not None:
            cells += _format_difference(exhibit, row, main, results)
        cells += student_columns.format_cells(exhibit, row, results)
        rows.append(cells)
    return report.format_table(heads, rows)


def _format_difference(
    exhibit: Exhibit, row: Row, column: Column, results: Results
) -> list[str]:
    if row.name == exhibit.baseline:
        return ["", ""]
    effect = Difference(row.name, exhibit.baseline, column.metric)
    paper = effect.find_in_paper({other.name: other.paper for other in exhibit.rows})
    ours = effect.estimate(results)
    return [
        "" if paper is None else f"{paper:+.3f}",
        "" if ours is None else format_estimate(ours, signed=True, digits=column.digits),
    ]


def _format_paper(row: Row, column: Column) -> str:
    """Formats the number that the paper prints, with its standard deviation over seeds."""
    text = format_number(row.paper.get(column.metric), min(3, column.digits))
    deviation = row.paper.get(f"{column.metric}_deviation")
    return text if deviation is None else f"{text} +- {deviation:g}"


def _format_ours(row: Row, of_row: Mapping[int, TrainingResult], column: Column) -> str:
    """Formats mean, standard deviation and interval of a metric over seeds.

    Runs that diverged or do not reach a quality are named, and so is the number of seeds if
    some lack the metric. A number that is counted on the full-size model needs no result.
    """
    if column.metric in row.counted:
        return format_number(row.counted[column.metric], column.digits)
    every = len(of_row)
    values = [metrics.read(result, column.metric) for result in of_row.values()]
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "not run" if not of_row else "-"
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return _describe_infinite(of_row, every)
    note = f" ({len(values)} of {every} seeds)" if len(values) < every else ""
    infinite = len(values) - len(finite)
    note += f" ({_describe_infinite(of_row, infinite)})" if infinite else ""
    found = estimates.estimate(finite, "difference")
    text = format_number(found.center, column.digits)
    deviation = statistics.stdev(finite) if len(finite) > 1 else 0.0
    if deviation > 0:
        low, high = (format_number(end, column.digits) for end in (found.low, found.high))
        text += f" +- {format_number(deviation, column.digits)} [{low}, {high}]"
    return text + note


def _describe_infinite(of_row: Mapping[int, TrainingResult], count: int) -> str:
    """Says why a metric of `count` seeds is infinite."""
    diverged = describe_divergence(of_row)
    if diverged:
        return diverged
    return "not reached" if count == len(of_row) else f"not reached by {count} of {len(of_row)}"


def _to_data(
    exhibit: Exhibit, results: Results, judged: Sequence[JudgedClaim], context: Context
) -> dict[str, Any]:
    """Returns the content of the JSON file; infinite numbers become texts."""
    return {
        "exhibit": exhibit.name,
        "title": exhibit.title,
        "scale": context.scale,
        "commit": context.commit,
        "rows": {
            row.name: {
                "title": row.title,
                "training": row.training.name if row.training else None,
                "paper": dict(row.paper),
                **({"counted": dict(row.counted)} if row.counted else {}),
                **student_columns.make_data(exhibit, row, results),
                "seeds": sorted(results.get(row.name, {})),
                "diverged_at": {
                    seed: result.diverged_at
                    for seed, result in results.get(row.name, {}).items()
                    if result.diverged_at is not None
                },
                "results": {
                    seed: estimates.name_infinite(result.metrics)
                    for seed, result in results.get(row.name, {}).items()
                },
            }
            for row in exhibit.rows
        },
        **(
            {"languages": language_section.make_data(exhibit, results)}
            if exhibit.by_language
            else {}
        ),
        "claims": [claim_table.claim_data(one) for one in judged],
        "warnings": origin_warnings.format_warnings(exhibit, results, context),
    }
