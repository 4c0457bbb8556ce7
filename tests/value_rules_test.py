"""Rules of values: the values that they accept, and their messages."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mtf_switch import value_rules
from mtf_switch.errors import UserError
from mtf_switch.value_rules import number, one_of, whole

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("rule", "accepted", "refused"),
    [
        (whole(1), [1, 8, np.int64(3)], [0, -1, 8.0, 8.5, "8", None, True, [8], NAN]),
        (whole(0, 2), [0, 2], [3, -1]),
        (value_rules.any_whole(), [-5, 0], ["a", 0.5, False]),
        (number(0, below=1), [0, 0.5, np.float32(0.25)], [1, -0.1, NAN, "0.5", None, True]),
        (number(above=0), [1e-9, 3], [0, INFINITY, -1]),
        (number(0, high=1), [0, 1.0], [1.1]),
        (number(above=0, finite=False), [1, INFINITY], [-INFINITY, NAN, 0, "inf"]),
        (number(), [-4, 0.5], [NAN, INFINITY, "1", True]),
        (one_of("a", 1), ["a", 1], ["b", True, 1.0, None]),
        (value_rules.text(), ["a"], ["", 1, None]),
        (value_rules.boolean(), [True, False], [0, 1, "True"]),
        (value_rules.rate().or_none(), [None, 0.4], [2.0]),
    ],
)
def test_a_rule_accepts_its_type_and_range(rule, accepted, refused):
    for value in accepted:
        rule.check("it", value)
    for value in refused:
        with pytest.raises(UserError, match=re.escape(rule.meaning)):
            rule.check("it", value)


def test_the_message_has_name_value_rule_and_advice():
    rules = {"factor": number(0, below=2, advice="The paper uses 1.25."), "other": whole()}
    value_rules.check_all("Layer", rules, {"factor": 1})  # `other` has no value
    with pytest.raises(UserError) as caught:
        value_rules.check_all("Layer", rules, {"factor": "1.25"})
    assert str(caught.value) == (
        "Layer.factor is '1.25', but it must be a finite number at least 0 and below 2. "
        "The paper uses 1.25."
    )
    with pytest.raises(UserError) as caught:
        number().check("it", "x" * 10_000)
    assert len(str(caught.value)) < 200
