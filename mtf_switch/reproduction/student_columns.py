"""The columns of students in a table: compression, and the share of the teacher's gain.

Tables 6 and 7 of the paper; the measure is that of ruling 43.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from mtf_switch.reproduction import estimates, metrics
from mtf_switch.reproduction.effects import Results, ShareOfGain
from mtf_switch.reproduction.exhibit import Exhibit, Row


def list_heads(exhibit: Exhibit) -> list[str]:
    """Returns the heads of the columns; none if no row of the exhibit has a teacher."""
    if not any(row.teacher for row in exhibit.rows):
        return []
    share = "% of the teacher's gain"
    return ["compression", f"paper: {share}", f"ours: {share}"]


def format_cells(exhibit: Exhibit, row: Row, results: Results) -> list[str]:
    """Formats the columns of `list_heads` for a row; "" in rows without a teacher.

    Compression is 1 - the student's parameters / the teacher's. The share is that of
    `ShareOfGain`, paired by seed, with its interval.
    """
    if row.teacher is None:
        return [""] * len(list_heads(exhibit))
    share = _share(exhibit, row)
    paper = share.find_in_paper(exhibit.paper_numbers)
    return [
        _format_compression(row, results),
        "" if paper is None else f"{100 * paper:+.0f}",
        _format_share(share, results),
    ]


def make_data(exhibit: Exhibit, row: Row, results: Results) -> dict[str, Any]:
    """Returns the columns of a row as data for JSON; {} in rows without a teacher.

    Infinite ends of an interval become texts, as in the claims.
    """
    if row.teacher is None:
        return {}
    share = _share(exhibit, row)
    found = share.estimate(results)
    return {
        "compression": compute_compression(row, results),
        "share_of_gain": None if found is None else estimates.to_data(found),
        "paper_share_of_gain": share.find_in_paper(exhibit.paper_numbers),
    }


def compute_share(exhibit: Exhibit, row: Row, results: Results, seed: int) -> float | None:
    """Returns the share of the gain that a student of a seed keeps.

    It is None without a result of the seed, or if the teacher of the seed has no gain.
    """
    of_seed = {name: {seed: of[seed]} for name, of in results.items() if seed in of}
    found = _share(exhibit, row).compute(of_seed) if row.teacher else []
    return None if not found or math.isnan(found[0]) else found[0]


def _share(exhibit: Exhibit, row: Row) -> ShareOfGain:
    metric = exhibit.compared_column.metric
    return ShareOfGain(row.name, exhibit.baseline, row.teacher, metric)


def compute_compression(row: Row, results: Results) -> float | None:
    """Returns 1 - the student's parameters / the teacher's; None if they are unknown.

    The number of parameters is the same for all seeds.
    """
    sizes = [
        next((metrics.read(r, "parameters") for r in results.get(name, {}).values()), math.nan)
        for name in (row.name, row.teacher)
    ]
    return None if any(map(math.isnan, sizes)) else 1 - sizes[0] / sizes[1]


def _format_compression(row: Row, results: Results) -> str:
    compression = compute_compression(row, results)
    return "" if compression is None else f"{compression:.0%}"


def _format_share(share: ShareOfGain, results: Results) -> str:
    found = share.estimate(results)
    if found is None:
        return ""
    ends = {name: 100 * getattr(found, name) for name in ("center", "low", "high")}
    return estimates.format_estimate(dataclasses.replace(found, **ends), signed=True, digits=0)
