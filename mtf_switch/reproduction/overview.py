"""The first page of a folder of results, README.md."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

from mtf_switch import report
from mtf_switch.report import Report
from mtf_switch.reproduction import claim_table, verdicts
from mtf_switch.reproduction.claim_table import GENERATED, Context
from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.exhibit import Exhibit
from mtf_switch.reproduction.verdicts import JudgedClaim, Verdict


def make_report(
    all_results: Mapping[str, Results], context: Context, exhibits: Sequence[Exhibit]
) -> Report:
    """Makes README.md and claims.json: every claim of the paper with its verdict.

    Args:
      all_results: Name of an exhibit -> the results of its rows.
      context: What the page says about the results.
      exhibits: All exhibits, in order.
    """
    judged = {e.name: verdicts.judge_all(e, all_results[e.name]) for e in exhibits}
    page = _format_page(judged, all_results, context, exhibits)
    return Report(
        name="claims",
        text=_format_counts(judged),
        data={
            name: [claim_table.claim_data(one) for one in claims]
            for name, claims in judged.items()
        },
        documents={"README.md": page},
    )


def _format_counts(judged: Mapping[str, Sequence[JudgedClaim]]) -> str:
    every = [one for claims in judged.values() for one in claims]
    counts = [_count("claims of the paper", [one for one in every if one.claim.of_paper])]
    controls = [one for one in every if not one.claim.of_paper]
    if controls:
        counts.append(_count("comparisons with a control", controls))
    return " ".join(counts)


def _count(what: str, claims: Sequence[JudgedClaim]) -> str:
    counts = collections.Counter(one.verdict for one in claims)
    parts = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict]
    return f"{len(claims)} {what}: {', '.join(parts)}."


def _format_page(
    judged: Mapping[str, Sequence[JudgedClaim]],
    all_results: Mapping[str, Results],
    context: Context,
    exhibits: Sequence[Exhibit],
) -> str:
    missing = [e for e in exhibits if not any(all_results[e.name].values())]
    rows = []
    for exhibit in exhibits:
        # What was not run has no page.
        label = exhibit.label
        link = label if exhibit in missing else f"[{label}]({exhibit.name}.md)"
        for one in judged[exhibit.name]:
            rows.append([link, one.claim.text, *claim_table.format_numbers(one)])
    lines = [
        GENERATED,
        "",
        f"# The claims of the paper at scale {context.scale}",
        "",
        _format_counts(judged),
        "",
        "A verdict compares the 95% interval of an effect over seeds, paired by seed, with no "
        "effect (0 for a difference, 1 for a factor) or the stated limit. "
        "[docs/reproduction.md](../reproduction.md) defines every number.",
        "",
        report.format_table(["", "claim", *claim_table.NUMBERS], rows),
    ]
    if missing:
        lines += ["", "## Not run", ""]
        lines += [f"- {exhibit.label}: {_explain(exhibit, context)}" for exhibit in missing]
    return "\n".join(lines) + "\n"


def _explain(exhibit: Exhibit, context: Context) -> str:
    """Returns the command of an exhibit that was not run, or the reason."""
    command = context.command.replace(" all ", f" {exhibit.name} ")
    return exhibit.only_at_paper_scale or f"`{command}`"
