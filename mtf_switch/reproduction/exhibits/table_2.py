"""Table 2: selective precision."""

from __future__ import annotations

from mtf_switch.reproduction.effects import Difference, Factor
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row, Training
from mtf_switch.reproduction.exhibits.trainings import EXPERTS, SWITCH, note_experts


def _row(precision: str, quality: float, speed: float) -> Row:
    training = Training(
        f"switch_8_{precision}", parts=(EXPERTS,), gin_files=(f"precision/{precision}.gin",)
    )
    return Row(
        precision,
        f"Switch-Base, {precision}",
        SWITCH if precision == "float32" else training,
        f"paper/table_2/{precision}.gin",
        {"quality": quality, "examples_per_second": speed},
    )


_PLACE = "Section 2.4, Table 2"

TABLE_2 = Exhibit(
    "table_2",
    "Selective precision",
    (
        _row("float32", -1.718, 1160),
        _row("bfloat16", -3.780, 1390),
        _row("selective", -1.716, 1390),
    ),
    (
        Column("quality", "neg. log perplexity", 4),
        Column("examples_per_second", "examples/s", 0),
    ),
    (
        Claim(
            "Selective precision is no more than 0.01 nats behind float32",
            _PLACE,
            Difference("selective", "float32"),
            above=-0.01,
        ),
        Claim(
            "bfloat16 everywhere is behind selective precision (the paper: it diverges)",
            _PLACE,
            Difference("selective", "bfloat16"),
        ),
        Claim(
            "Selective precision is faster than float32",
            _PLACE,
            Factor("selective", "float32", "examples_per_second"),
        ),
        Claim(
            "Selective precision is at least 0.95 times as fast as bfloat16",
            _PLACE,
            Factor("selective", "bfloat16", "examples_per_second"),
            above=0.95,
        ),
    ),
    baseline="float32",
    plots=("quality_by_step", "difference_by_row"),
    notes=(
        note_experts(32),
        "A processor without instructions for bfloat16 is not faster with it, so the claims on "
        "speed are about TPUs.",
        "The margins of 0.01 nats and of 0.95 are this project's reading of 'equal'.",
    ),
)

EXHIBITS = (TABLE_2,)
