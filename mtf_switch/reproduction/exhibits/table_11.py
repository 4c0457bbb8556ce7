"""Table 11: exploration policies of the router (Appendix C)."""

from __future__ import annotations

from mtf_switch.reproduction.effects import Difference
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row, Training
from mtf_switch.reproduction.exhibits.trainings import EXPERTS, SWITCH, note_experts


def _row(policy: str, title: str, quality: float) -> Row:
    # Input jitter is the policy of the base setting.
    training = Training(
        f"switch_8_{policy}", parts=(EXPERTS,), gin_files=(f"routing/{policy}.gin",)
    )
    return Row(
        policy,
        title,
        SWITCH if policy == "input_jitter" else training,
        f"paper/table_11/{policy}.gin",
        {"quality": quality},
    )


def _ahead(first: str, second: str) -> Claim:
    words = {
        "argmax": "argmax",
        "sample_softmax": "sampling from the softmax",
        "input_dropout": "input dropout",
        "input_jitter": "input jitter",
    }
    return Claim(
        f"{words[first].capitalize()} is ahead of {words[second]}",
        "Appendix C, Table 11",
        Difference(first, second),
    )


TABLE_11 = Exhibit(
    "table_11",
    "Exploration policies of the router",
    (
        _row("argmax", "Argmax", -1.471),
        _row("sample_softmax", "Sample softmax", -1.570),
        _row("input_dropout", "Input dropout", -1.480),
        _row("input_jitter", "Input jitter", -1.468),
    ),
    (Column("quality", "neg. log perplexity", 4),),
    (
        _ahead("input_jitter", "argmax"),
        _ahead("input_jitter", "input_dropout"),
        _ahead("input_jitter", "sample_softmax"),
        _ahead("argmax", "sample_softmax"),
    ),
    baseline="argmax",
    plots=("quality_by_step", "difference_by_row"),
    notes=(f"{note_experts()} The paper does not say how many it has.",),
)

EXHIBITS = (TABLE_11,)
