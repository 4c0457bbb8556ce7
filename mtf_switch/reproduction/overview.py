"""The first page of a folder of results, README.md."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence

from mtf_switch import report
from mtf_switch.report import Report
from mtf_switch.reproduction import claim_table, verdicts
from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.exhibit import Exhibit
from mtf_switch.reproduction.page_context import GENERATED, Context
from mtf_switch.reproduction.verdicts import JudgedClaim, Verdict

_GUIDE = "docs/reproduction.md"


def make_report(
    all_results: Mapping[str, Results],
    context: Context,
    exhibits: Sequence[Exhibit],
    pages: Collection[str],
    guide: str | None = None,
) -> Report:
    """Makes README.md and claims.json: every claim of the paper with its verdict.

    Args:
      all_results: Name of an exhibit -> the results of its rows.
      context: What the page says about the results.
      exhibits: All exhibits, in order.
      pages: The names of the files beside the page. An exhibit without its page has no link.
      guide: The path of docs/reproduction.md from the page; None if the page has no link to it.
    """
    judged = {e.name: verdicts.judge_all(e, all_results[e.name]) for e in exhibits}
    missing = [
        text
        for exhibit in exhibits
        for text in _explain_missing(
            exhibit, judged[exhibit.name], all_results[exhibit.name], context
        )
    ]
    page = _format_page(judged, context, exhibits, pages, guide, missing)
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
    # Figures 1 and 4 have claims in common.
    every = {one.claim: one for claims in judged.values() for one in claims}.values()
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
    context: Context,
    exhibits: Sequence[Exhibit],
    pages: Collection[str],
    guide: str | None,
    missing: Sequence[str],
) -> str:
    rows = []
    for exhibit in exhibits:
        page = f"{exhibit.name}.md"
        link = f"[{exhibit.label}]({page})" if page in pages else exhibit.label
        for one in judged[exhibit.name]:
            rows.append([link, one.claim.text, *claim_table.format_numbers(one)])
    guide_link = _GUIDE if guide is None else f"[{_GUIDE}]({guide})"
    lines = [
        GENERATED,
        "",
        f"# The claims of the paper at scale {context.scale}",
        "",
        _format_counts(judged),
        "",
        "A verdict compares the 95% interval of an effect over seeds, paired by seed, with no "
        "effect (0 for a difference, 1 for a factor) or the stated limit. A claim that several "
        f"figures carry counts once. {guide_link} defines every number.",
        "",
        report.format_table(["", "claim", *claim_table.NUMBERS], rows),
    ]
    if missing:
        lines += ["", "## Not run", "", *missing]
    return "\n".join(lines) + "\n"


def _explain_missing(
    exhibit: Exhibit, judged: Sequence[JudgedClaim], results: Results, context: Context
) -> list[str]:
    """Returns the command of an exhibit that was not run, or not with all seeds, or the reason.

    The list is empty if every claim was judged with all seeds.
    """
    count = sum(one.verdict is Verdict.NOT_RUN for one in judged)
    rows = [] if exhibit.is_computed else [row for row in exhibit.rows if row.training]
    seeds = [
        seed not in results.get(row.name, {}) for row in rows for seed in range(context.seeds)
    ]
    if count:
        is_part = count < len(judged)
        part = f" (in part: {count} of {len(judged)} claims)" if is_part else ""
    elif any(seeds):
        part = f" (in part: {sum(seeds)} of {len(seeds)} results of a row and seed)"
    else:
        return []
    reason = exhibit.only_at_paper_scale or f"`{context.format_command(exhibit.name)}`"
    return [f"- {exhibit.label}{part}: {reason}"]
