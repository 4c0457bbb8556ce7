"""Judges the claims of an exhibit by the results of all seeds."""

from __future__ import annotations

import dataclasses
import enum

from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.estimates import Estimate
from mtf_switch.reproduction.exhibit import Claim, Exhibit


class Verdict(enum.Enum):
    """What the results say about a claim."""

    SAME = "same direction"
    NOT_RESOLVED = "not resolved at this scale"
    OPPOSITE = "opposite direction"
    NOT_RUN = "not run"


@dataclasses.dataclass(frozen=True)
class JudgedClaim:
    """A claim, its effect in the paper and here, and the verdict.

    Attributes:
      claim: The claim.
      paper: The paper's effect; None if the paper does not print it.
      estimate: The effect here; None without results.
      verdict: What follows.
    """

    claim: Claim
    paper: float | None
    estimate: Estimate | None
    verdict: Verdict

    @property
    def verdict_text(self) -> str:
        """The verdict, and what the interval excludes."""
        if self.estimate is not None and self.estimate.is_exact:
            return f"{self.verdict.value}, computed"
        if self.verdict in (Verdict.SAME, Verdict.OPPOSITE):
            return f"{self.verdict.value}, interval excludes {self.claim.limit:g}"
        return self.verdict.value


def judge(claim: Claim, estimate: Estimate | None) -> Verdict:
    """Compares the interval of an effect with the limit of a claim.

    The claim says that the effect is above the limit. The verdict is "same direction" if the
    whole interval is above it, and "opposite direction" if the whole interval is below it.
    """
    if estimate is None:
        return Verdict.NOT_RUN
    if estimate.low > claim.limit:
        return Verdict.SAME
    if estimate.high < claim.limit:
        return Verdict.OPPOSITE
    return Verdict.NOT_RESOLVED


def judge_all(exhibit: Exhibit, results: Results) -> list[JudgedClaim]:
    """Judges all claims of an exhibit, in order."""
    numbers = exhibit.paper_numbers
    judged = []
    for claim in exhibit.claims:
        estimate = claim.effect.estimate(results)
        if estimate is not None and exhibit.is_computed:
            center = estimate.center
            estimate = dataclasses.replace(estimate, low=center, high=center)
        paper = claim.effect.find_in_paper(numbers) if claim.paper is None else claim.paper
        judged.append(JudgedClaim(claim, paper, estimate, judge(claim, estimate)))
    return judged
