"""The first page of a folder of results, README.md, and the table of `reproduce --list`."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Mapping, Sequence

from mtf_switch.report import Report
from mtf_switch.reproduction import exhibit_report, verdicts
from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.exhibit import Exhibit
from mtf_switch.reproduction.exhibit_report import GENERATED, Context
from mtf_switch.reproduction.scales import Scale
from mtf_switch.reproduction.training_result import TrainingResult
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
            name: [exhibit_report.claim_data(one) for one in claims]
            for name, claims in judged.items()
        },
        documents={"README.md": page},
    )


def _format_counts(judged: Mapping[str, Sequence[JudgedClaim]]) -> str:
    counts = collections.Counter(one.verdict for claims in judged.values() for one in claims)
    total = sum(counts.values())
    parts = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict]
    return f"{total} claims of the paper: {', '.join(parts)}."


def _format_page(
    judged: Mapping[str, Sequence[JudgedClaim]],
    all_results: Mapping[str, Results],
    context: Context,
    exhibits: Sequence[Exhibit],
) -> str:
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
        "| | claim | paper | ours | verdict |",
        "|---|---|---|---|---|",
    ]
    for exhibit in exhibits:
        link = f"[{exhibit.label}]({exhibit.name}.md)"
        for one in judged[exhibit.name]:
            row = exhibit_report.format_claims([one]).splitlines()[-1].strip("| ").split(" | ")
            claim, _, _, paper, ours, verdict = row
            lines.append(f"| {link} | {claim} | {paper} | {ours} | {verdict} |")
    missing = [e for e in exhibits if not any(all_results[e.name].values())]
    if missing:
        lines += ["", "## Not run", ""]
        lines += [
            f"- {exhibit.label}: `{context.command.replace(' all ', f' {exhibit.name} ')}`"
            for exhibit in missing
        ]
    return "\n".join(lines) + "\n"


def format_list(
    exhibits: Sequence[Exhibit],
    all_results: Mapping[str, Results],
    scale: Scale,
    seeds: int,
) -> str:
    """Formats the table of `reproduce --list`.

    The time of a training is measured: the median of its results, or of those of the trainings
    that are done, by the step.

    Args:
      exhibits: The exhibits.
      all_results: See `make_report`.
      scale: The scale.
      seeds: The number of seeds of each row.
    """
    seconds = _measure_steps(all_results, exhibits, scale)
    lines = [f"{'':12s} {'rows':>4s} {'done':>9s} {'time left':>10s}  shows"]
    for exhibit in exhibits:
        trainings = exhibit.trainings
        by_training = _by_training(exhibit, all_results[exhibit.name])
        left = {t: seeds - min(seeds, len(by_training[t.name])) for t in trainings}
        done = len(trainings) * seeds - sum(left.values())
        usual = statistics.median(seconds.values()) if seconds else None
        times = [
            count * scale.count_steps(training) * seconds.get(training.name, usual)
            for training, count in left.items()
            if usual is not None
        ]
        time = _format_seconds(sum(times)) if usual is not None else "?"
        of = f"{done} of {len(trainings) * seeds}"
        lines.append(
            f"{exhibit.name:12s} {len(exhibit.rows):4d} {of:>9s} {time:>10s}  {exhibit.title}"
        )
    remark = "Time left on this machine, one training at a time, by the steps that are done"
    lines.append(f"{remark}; ? before the first one is.")
    lines.append(
        "All need only the embedded text, except figure_7 and figure_8: `make "
        "install-multilingual` downloads theirs."
    )
    return "\n".join(lines)


def _by_training(exhibit: Exhibit, results: Results) -> dict[str, list[TrainingResult]]:
    return {row.training.name: list(results.get(row.name, {}).values()) for row in exhibit.rows}


def _measure_steps(
    all_results: Mapping[str, Results], exhibits: Sequence[Exhibit], scale: Scale
) -> dict[str, float]:
    """Returns the seconds of a step of each training that has results."""
    found = {}
    for exhibit in exhibits:
        for name, results in _by_training(exhibit, all_results[exhibit.name]).items():
            times = [
                r.metrics["seconds"] / r.curve[-1].step
                for r in results
                if r.curve and r.curve[-1].step
            ]
            if times:
                found[name] = statistics.median(times)
    return found


def _format_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
