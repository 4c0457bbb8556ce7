"""Figures 1, 4 and 12: more experts at the same FLOPs per token. Figures 5 and 6: time."""

from __future__ import annotations

from mtf_switch.reproduction.effects import Difference, SpeedUp, Trend
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row
from mtf_switch.reproduction.exhibits import trainings

_EXPERTS = (2, 4, 8, 16, 32, 64, 128, 256)
# The paper compares 64 experts with dense models. The base setting of the small scales has 8.
_SHOWN = 8


def _sparse(experts: int) -> Row:
    # Table 7 prints the quality of five of these models.
    paper = {16: -1.505, 32: -1.474, 64: -1.444, 128: -1.432, 256: -1.427}
    return Row(
        f"switch_{experts}",
        f"Switch-Base, {experts} experts",
        trainings.switch(experts),
        f"paper/figure_4/switch_base_{experts}.gin",
        {"quality": paper[experts]} if experts in paper else {},
        layout=trainings.choose_layout(experts),
    )


_DENSE = {"layout": trainings.DATA_32}
_T5 = Row(
    *("t5", "T5-Base", trainings.T5, "paper/figure_4/t5_base.gin"),
    paper={"quality": -1.636},
    **_DENSE,
)
_LARGE = Row("t5_large", "T5-Large", trainings.T5_LARGE, "paper/table_9/t5_large.gin", **_DENSE)
_ROWS = (_T5, *map(_sparse, _EXPERTS))
_COLUMNS = (
    Column("parameters", "parameters", 0),
    Column("flops_per_token", "FLOPs per token", 0),
    Column("quality", "neg. log perplexity", 4),
)
_SPARSE = f"Switch-Base (64 experts; here {_SHOWN})"
_EIGHT = (
    f"Where the paper compares 64 experts with dense models, {_SHOWN} are compared here, "
    "the number of the base setting. In the results of this project at scale tiny, the mean "
    "quality of 16, 32 and 64 experts is ahead of that of 8, and 128 and 256 are behind it."
)
_ROUTERS = (
    "FLOP-matched means the same FLOPs per token, routers aside. At scale tiny routers count: "
    "64 experts cost 12% more FLOPs than the dense model, 128 cost 25% and 256 cost 50%."
)
_NUMBERS = (
    "The figures print no numbers. The paper's column is Table 7's, on C4 without repeats."
)
_DOUBLING = Claim(
    "The test loss falls as the number of experts doubles, from 1 to 256",
    "Section 3.1, Figures 1 and 4",
    Trend((("t5", 1), *((f"switch_{experts}", experts) for experts in _EXPERTS))),
)
_STEPS = Claim(
    f"{_SPARSE} reaches the quality of T5-Base in fewer steps (the paper: a speed-up of 7.5)",
    "Section 3.1, Figure 4",
    SpeedUp(f"switch_{_SHOWN}", "t5"),
    paper=7.5,
)
_AHEAD = tuple(
    Claim(
        f"Switch-Base with {experts} experts is ahead of its FLOP-matched T5-Base",
        "Section 3.1, Figures 1 and 4",
        Difference(f"switch_{experts}", "t5"),
    )
    for experts in _EXPERTS
    if experts > 8
)

FIGURE_1 = Exhibit(
    "figure_1",
    "Scaling the number of experts at fixed FLOPs per token",
    _ROWS,
    _COLUMNS,
    (_DOUBLING, _STEPS),
    baseline="t5",
    plots=("quality_by_parameters", "quality_by_step"),
    notes=(_NUMBERS, _EIGHT, _ROUTERS),
)
FIGURE_4 = Exhibit(
    "figure_4",
    "Scaling on a step basis: loss against experts, quality against steps",
    _ROWS,
    _COLUMNS,
    (_DOUBLING, _STEPS, *_AHEAD),
    baseline="t5",
    plots=("quality_by_parameters", "quality_by_step", "speed_up"),
    notes=(_NUMBERS, _EIGHT, _ROUTERS),
)
FIGURE_12 = Exhibit(
    "figure_12",
    "Switch models with few experts (Appendix D)",
    (_T5, *map(_sparse, (2, 4, 8))),
    _COLUMNS,
    tuple(
        Claim(
            f"Switch-Base with {experts} experts is ahead of its FLOP-matched T5-Base",
            "Appendix D, Figure 12",
            Difference(f"switch_{experts}", "t5"),
        )
        for experts in (2, 4, 8)
    ),
    baseline="t5",
    plots=("quality_by_step",),
    notes=(_NUMBERS, _ROUTERS),
)

_TIME_COLUMNS = (
    Column("seconds", "seconds of training", 1),
    Column("examples_per_second", "examples/s", 1),
    Column("quality", "neg. log perplexity", 4),
)
FIGURE_5 = Exhibit(
    "figure_5",
    "Scaling on a time basis: quality against seconds of training",
    (_T5, *map(_sparse, (8, 16, 32, 64, 128))),
    _TIME_COLUMNS,
    (
        Claim(
            f"{_SPARSE} reaches the quality of T5-Base in less time "
            "(the paper: a speed-up of 7)",
            "Section 3.2, Figure 5",
            SpeedUp(f"switch_{_SHOWN}", "t5", "seconds"),
            paper=7.0,
        ),
    ),
    baseline="t5",
    plots=("quality_by_second",),
    notes=(_NUMBERS, _EIGHT),
)
FIGURE_6 = Exhibit(
    "figure_6",
    "Sparse models against a larger dense model: quality against steps and time",
    (_T5, _LARGE, _sparse(_SHOWN), _sparse(64)),
    _TIME_COLUMNS,
    (
        Claim(
            f"{_SPARSE} reaches the quality of T5-Large in less time "
            "(the paper: a speed-up of 2.5)",
            "Section 3.3, Figure 6",
            SpeedUp(f"switch_{_SHOWN}", "t5_large", "seconds"),
            paper=2.5,
        ),
        Claim(
            f"{_SPARSE} reaches the quality of T5-Large in fewer steps",
            "Section 3.3, Figure 6",
            SpeedUp(f"switch_{_SHOWN}", "t5_large"),
        ),
    ),
    baseline="t5_large",
    plots=("quality_by_step", "quality_by_second"),
    notes=(_NUMBERS, _EIGHT),
)

EXHIBITS = (FIGURE_1, FIGURE_4, FIGURE_12, FIGURE_5, FIGURE_6)
