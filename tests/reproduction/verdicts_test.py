"""Verdicts on made-up results."""

from __future__ import annotations

import pytest
from made_results import make_seeds

from mtf_switch.reproduction import verdicts
from mtf_switch.reproduction.effects import Difference, SpeedUp
from mtf_switch.reproduction.estimates import Estimate
from mtf_switch.reproduction.exhibit import Claim
from mtf_switch.reproduction.verdicts import Verdict

AHEAD = Claim("a is ahead of b", "Table 0", Difference("a", "b"))
NOT_WORSE = Claim("a is not behind b", "Table 0", Difference("a", "b"), above=-0.01)


@pytest.mark.parametrize(
    ("claim", "low", "high", "verdict"),
    [
        (AHEAD, 0.001, 0.2, Verdict.SAME),
        (AHEAD, -0.001, 0.2, Verdict.NOT_RESOLVED),
        (AHEAD, 0.0, 0.2, Verdict.NOT_RESOLVED),
        (AHEAD, -0.2, 0.0, Verdict.NOT_RESOLVED),
        (AHEAD, -0.2, -0.001, Verdict.OPPOSITE),
        (NOT_WORSE, -0.009, 0.2, Verdict.SAME),
        (NOT_WORSE, -0.011, 0.2, Verdict.NOT_RESOLVED),
        (NOT_WORSE, -0.2, -0.011, Verdict.OPPOSITE),
    ],
)
def test_the_interval_decides(claim, low, high, verdict) -> None:
    estimate = Estimate((low + high) / 2, low, high, 5)
    assert verdicts.judge(claim, estimate) is verdict
    assert verdicts.judge(claim, None) is Verdict.NOT_RUN


def test_no_effect_is_0_for_a_difference_and_1_for_a_factor() -> None:
    faster = Claim("a is faster", "Table 0", SpeedUp("a", "b"))
    assert (AHEAD.limit, faster.limit, NOT_WORSE.limit) == (0.0, 1.0, -0.01)
    # Every seed reaches the quality at the same step, so there is no speed-up and no slow-down.
    same = {"a": make_seeds(-2.0, -2.0, -2.0), "b": make_seeds(-2.0, -2.0, -2.0)}
    assert verdicts.judge(faster, faster.effect.estimate(same)) is Verdict.NOT_RESOLVED
    # Some reach it and some do not.
    mixed = {"a": make_seeds(-1.5, -1.5, -1.5, -1.5, -3.0), "b": make_seeds(*[-2.0] * 5)}
    assert verdicts.judge(faster, faster.effect.estimate(mixed)) is Verdict.NOT_RESOLVED
    # None of five reaches it.
    never = {"a": make_seeds(*[-3.0] * 5), "b": make_seeds(*[-2.0] * 5)}
    assert verdicts.judge(faster, faster.effect.estimate(never)) is Verdict.OPPOSITE


def test_the_words_of_a_verdict_name_the_limit() -> None:
    results = {"a": make_seeds(-2.0, -2.01, -2.02), "b": make_seeds(-2.5, -2.51, -2.52)}

    def text(claim: Claim) -> str:
        estimate = claim.effect.estimate(results)
        verdict = verdicts.judge(claim, estimate)
        return verdicts.JudgedClaim(claim, None, estimate, verdict).verdict_text

    assert text(AHEAD) == "same direction, interval excludes 0"
    assert text(NOT_WORSE) == "same direction, interval excludes -0.01"
    behind = Claim("b is ahead of a", "Table 0", Difference("b", "a"))
    assert text(behind) == "opposite direction, interval excludes 0"
