"""Figure 3: a larger capacity factor drops fewer tokens, and costs computation."""

from __future__ import annotations

from mtf_switch.reproduction.effects import Difference
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row
from mtf_switch.reproduction.exhibits import trainings

_FACTORS = (1.0, 1.25, 2.0)


def _row(factor: float) -> Row:
    return Row(
        f"capacity_{factor}",
        f"Switch-Base, capacity factor {factor}",
        trainings.switch_at_capacity(factor),
        f"paper/table_1/switch_base_{factor:.2f}.gin",
    )


def _fewer(metric: str, when: str) -> list[Claim]:
    return [
        Claim(
            f"Fewer tokens are dropped at {large} than at {small}, {when}",
            "Section 2.2, Figure 3",
            Difference(f"capacity_{small}", f"capacity_{large}", metric),
        )
        for small, large in zip(_FACTORS, _FACTORS[1:])
    ]


FIGURE_3 = Exhibit(
    "figure_3",
    "Dropped tokens against the capacity factor",
    tuple(map(_row, _FACTORS)),
    (
        Column("dropped_training", "dropped in training", 4),
        Column("dropped_evaluation", "dropped in evaluation", 4),
        Column("quality", "neg. log perplexity", 4),
    ),
    (
        *_fewer("dropped_training", "in training"),
        *_fewer("dropped_evaluation", "in evaluation"),
    ),
    baseline="capacity_1.0",
    plots=("dropped_by_row",),
    notes=(
        trainings.note_experts(),
        "The figure of the paper is a drawing, without numbers.",
    ),
)

EXHIBITS = (FIGURE_3,)
