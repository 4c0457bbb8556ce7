"""Figures 7 and 8: many languages, mSwitch-Base against mT5-Base (Section 4.3)."""

from __future__ import annotations

from mtf_switch.downstream import language_gains
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row, Training
from mtf_switch.reproduction.language_effects import ByLanguage

_RUN = "runs/multilingual.gin"
_PLACE = "Section 4.3, Figure {}"


def _training(name: str) -> Training:
    return Training(
        name,
        gin_files=(_RUN,),
        # Another number of steps may have more evaluations than those that the file keeps.
        params=("utils.run.keep_checkpoint_max = None",),
        base_file=f"models/{name}.gin",
        evaluates_all=True,
    )


_ROWS = (
    Row(
        *("mt5", "mT5-Base", _training("mt5_tiny"), "paper/figure_7/mt5_base.gin"),
        layout="layouts/data_32.gin",
    ),
    Row(
        "mswitch", "mSwitch-Base", _training("mswitch_tiny"), "paper/figure_7/mswitch_base.gin"
    ),
)
_COLUMNS = (Column("parameters", "parameters", 0), Column("quality", "neg. log perplexity", 4))
_NOTES = (
    "The paper has 101 languages of mC4 and 1M steps. Here, the text is the embedded "
    "multilingual text, which `make install-multilingual` downloads. The models are mt5_tiny "
    "and mswitch_tiny at every scale: see docs/multilingual.md.",
    "The first table is about all languages together: the mean over the tokens of their whole "
    "validation splits.",
)

_NEEDS = "make install-multilingual"


def _claim(figure: int, text: str, number: str, **others: float) -> Claim:
    return Claim(text, _PLACE.format(figure), ByLanguage("mswitch", "mt5", number), **others)


FIGURE_7 = Exhibit(
    "figure_7",
    "Quality by language",
    _ROWS,
    _COLUMNS,
    (
        _claim(7, "mSwitch-Base is ahead of mT5-Base in all languages", "smallest_gain"),
        _claim(7, "mSwitch-Base is ahead in the mean over languages", "mean_gain"),
    ),
    baseline="mt5",
    plots=("gains_by_language",),
    notes=_NOTES,
    by_language=True,
    needs=_NEEDS,
)
FIGURE_8 = Exhibit(
    "figure_8",
    "Step speed-ups of languages",
    _ROWS,
    _COLUMNS,
    (
        _claim(
            8,
            "mSwitch-Base reaches the quality of mT5-Base in fewer steps, in the mean over "
            "languages (the paper: a speed-up of 5)",
            "mean_speed_up",
            paper=language_gains.PAPER_MEAN_SPEED_UP,
        ),
        _claim(
            8,
            "Most languages have a speed-up of at least 4 (the paper: 91% of them)",
            "share",
            paper=language_gains.PAPER_SHARE,
            above=0.5,
        ),
    ),
    baseline="mt5",
    plots=("speed_ups_by_language",),
    notes=_NOTES,
    by_language=True,
    needs=_NEEDS,
)

EXHIBITS = (FIGURE_7, FIGURE_8)
