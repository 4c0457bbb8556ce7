"""The columns of students in a table: compression, and the share of the teacher's gain.

Tables 6 and 7 of the paper; the measure is that of ruling 43.
"""

from __future__ import annotations

import dataclasses
import math

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
    share = ShareOfGain(row.name, exhibit.baseline, row.teacher)
    paper = share.find_in_paper({other.name: other.paper for other in exhibit.rows})
    return [
        _format_compression(row, results),
        "" if paper is None else f"{100 * paper:+.0f}",
        _format_share(share, results),
    ]


def _format_compression(row: Row, results: Results) -> str:
    """The number of parameters is the same for all seeds."""
    sizes = [
        next((metrics.read(r, "parameters") for r in results.get(name, {}).values()), math.nan)
        for name in (row.name, row.teacher)
    ]
    return "" if any(map(math.isnan, sizes)) else f"{1 - sizes[0] / sizes[1]:.0%}"


def _format_share(share: ShareOfGain, results: Results) -> str:
    found = share.estimate(results)
    if found is None:
        return ""
    ends = {name: 100 * getattr(found, name) for name in ("center", "low", "high")}
    return estimates.format_estimate(dataclasses.replace(found, **ends), signed=True, digits=0)
