"""The claims of an exhibit with their verdicts: as a table, and as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtf_switch import report
from mtf_switch.reproduction import estimates
from mtf_switch.reproduction.estimates import format_estimate
from mtf_switch.reproduction.verdicts import JudgedClaim

# The heads of the columns of `format_numbers`.
NUMBERS = ("paper", "ours", "verdict")


def format_claims(judged: Sequence[JudgedClaim]) -> str:
    """Formats the claims with the paper's effect, ours and the verdict, in Markdown."""
    rows = [
        [one.claim.text, one.claim.place, one.claim.effect.describe(), *format_numbers(one)]
        for one in judged
    ]
    return report.format_table(["claim", "place", "effect", *NUMBERS], rows)


def format_numbers(one: JudgedClaim) -> list[str]:
    """Formats the cells of `NUMBERS` for a claim."""
    is_factor = one.claim.effect.none == 1
    paper = ours = ""
    if one.paper is not None:
        paper = f"{one.paper:.2f}" if is_factor else f"{one.paper:+.3f}"
    if one.estimate is not None:
        ours = format_estimate(one.estimate, signed=not is_factor)
    return [paper, ours, f"**{one.verdict_text}**"]


def claim_data(one: JudgedClaim) -> dict[str, Any]:
    """Returns a judged claim as data for JSON, in which infinite numbers are texts."""
    return {
        "claim": one.claim.text,
        "place": one.claim.place,
        "effect": one.claim.effect.describe(),
        "limit": one.claim.limit,
        "paper": one.paper,
        "ours": None if one.estimate is None else estimates.to_data(one.estimate),
        "verdict": one.verdict_text,
    }
