"""Appendix B: No-Token-Left-Behind against plain Switch routing."""

from __future__ import annotations

from mtf_switch.reproduction.effects import Difference
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row
from mtf_switch.reproduction.exhibits import trainings

_FACTOR = 1.0
_PLACE = "Appendix B"
_PAPER_FILE = "paper/table_1/switch_base_1.00.gin"

APPENDIX_B = Exhibit(
    "appendix_b",
    "No-Token-Left-Behind",
    (
        Row(
            "switch",
            "Switch-Base, capacity factor 1.0",
            trainings.switch_at_capacity(_FACTOR),
            _PAPER_FILE,
        ),
        Row(
            "no_token_left_behind",
            "the same with No-Token-Left-Behind",
            trainings.at_capacity("ntlb_8", _FACTOR, "routing/no_token_left_behind.gin"),
            _PAPER_FILE,
            paper_files=("routing/no_token_left_behind.gin",),
        ),
    ),
    (
        Column("quality", "neg. log perplexity", 4),
        Column("dropped_training", "dropped in training", 4),
        Column("examples_per_second", "examples/s", 0),
    ),
    (
        Claim(
            "No-Token-Left-Behind drops fewer tokens in training",
            _PLACE,
            Difference("switch", "no_token_left_behind", "dropped_training"),
        ),
        Claim(
            "No-Token-Left-Behind does not improve quality by 0.01 nats or more",
            _PLACE,
            Difference("switch", "no_token_left_behind"),
            above=-0.01,
        ),
    ),
    baseline="switch",
    plots=("quality_by_step", "difference_by_row"),
    notes=(
        trainings.note_experts(),
        "The paper prints no numbers: it found no improvement.",
        "The margin of 0.01 nats is this project's reading of 'no improvement'.",
    ),
)

EXHIBITS = (APPENDIX_B,)
