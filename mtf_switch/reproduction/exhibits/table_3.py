"""Table 3: a smaller initialization scale makes training more stable."""

from __future__ import annotations

from mtf_switch.reproduction.effects import Difference, SpreadFactor
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row, Training
from mtf_switch.reproduction.exhibits.trainings import EXPERTS, note_experts


def _row(scale: float, quality: float, deviation: float) -> Row:
    training = Training(
        f"switch_8_deep_scale_{scale}",
        parts=(EXPERTS, "deep"),
        params=(f"init_scale.s = {scale}",),
    )
    return Row(
        f"scale_{scale}",
        f"Switch-Base, s = {scale}",
        training,
        f"paper/table_3/scale_{scale}.gin",
        {"quality": quality, "quality_deviation": deviation},
    )


TABLE_3 = Exhibit(
    "table_3",
    "The scale of the initial weights (Section 2.4)",
    (_row(0.1, -2.72, 0.01), _row(1.0, -3.60, 0.68)),
    (Column("quality", "neg. log perplexity", 4),),
    (
        Claim(
            "The scale 0.1 gives a better quality than 1.0",
            "Section 2.4, Table 3",
            Difference("scale_0.1", "scale_1.0"),
        ),
        Claim(
            "The scale 0.1 gives a smaller deviation over seeds than 1.0",
            "Section 2.4, Table 3",
            SpreadFactor("scale_1.0", "scale_0.1"),
        ),
    ),
    baseline="scale_1.0",
    plots=("quality_by_step", "difference_by_row"),
    notes=(
        note_experts(32),
        "The paper has 3 seeds, after 3.5k steps. Here the model is deeper.",
    ),
)

EXHIBITS = (TABLE_3,)
