"""Table 9: the models of the paper, dense and sparse, in three sizes."""

from __future__ import annotations

from mtf_switch.reproduction import metrics
from mtf_switch.reproduction.effects import Difference
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row, Training
from mtf_switch.reproduction.exhibits import trainings
from mtf_switch.reproduction.exhibits.trainings import (
    EXPERTS,
    SWITCH,
    SWITCH_LARGE,
    T5,
    T5_LARGE,
)

_PLACE = "Section 5.6, Table 9"
# Every feed-forward layer of the small models is sparse, as in Switch-C.
_C = trainings.switch(32)


# Row -> parameters and FLOPs of a sequence as printed, and both as counted: those of the models
# in docs/models.md, routers included.
_SIZES = {
    "t5_base": (0.2e9, 124e9, 222_903_552, 124.1e9),
    "t5_large": (0.7e9, 425e9, 750_251_008, 449.1e9),
    "t5_xxl": (11e9, 6.3e12, 11_003_736_064, 6806e9),
    "switch_base": (7e9, 124e9, 7_415_217_408, 124.8e9),
    "switch_large": (26e9, 425e9, 27_120_888_832, 451e9),
    "switch_xxl": (395e9, 6.3e12, 394_675_073_024, 6814e9),
    "switch_c": (1571e9, 890e9, 1_571_375_798_688, 1040e9),
}
_SIZE_METRICS = ("full_parameters", "full_flops")


def _row(
    name: str, title: str, training: Training, half: float, end: float, layout: str
) -> Row:
    printed, counted = _SIZES[name][:2], _SIZES[name][2:]
    quality = {metrics.QUALITY_AT_HALF: half, metrics.QUALITY: end}
    return Row(
        name,
        title,
        training,
        f"paper/table_9/{name}.gin",
        {**quality, **dict(zip(_SIZE_METRICS, printed))},
        layout=f"layouts/{layout}.gin",
        counted=dict(zip(_SIZE_METRICS, counted)),
    )


def _claims(sparse: str, dense: str, text: str) -> list[Claim]:
    return [
        Claim(f"{text}, after {when}", _PLACE, Difference(sparse, dense, metric))
        for metric, when in (
            (metrics.QUALITY_AT_HALF, "half of the steps"),
            (metrics.QUALITY, "all steps"),
        )
    ]


TABLE_9 = Exhibit(
    "table_9",
    "The models of the paper, at two points of training",
    (
        _row("t5_base", "T5-Base", T5, -1.599, -1.556, "data_32"),
        _row("t5_large", "T5-Large", T5_LARGE, -1.402, -1.350, "data_32"),
        _row(
            *("t5_xxl", "T5-XXL", Training("t5_xxl", parts=("xxl",))),
            *(-1.147, -1.095, "expert_model_512"),
        ),
        _row("switch_base", "Switch-Base", SWITCH, -1.370, -1.306, "expert_32"),
        _row(
            *("switch_large", "Switch-Large"),
            SWITCH_LARGE,
            *(-1.248, -1.177, "expert_32"),
        ),
        _row(
            *("switch_xxl", "Switch-XXL"),
            Training("switch_8_xxl", parts=(EXPERTS, "xxl")),
            *(-1.086, -1.008, "expert_model_512"),
        ),
        _row("switch_c", "Switch-C", _C, -1.096, -1.043, "expert_2048"),
    ),
    (
        Column("full_parameters", "parameters at full size", 0),
        Column("full_flops", "FLOPs of a sequence at full size", 0),
        Column("parameters", "parameters", 0),
        Column("flops_per_token", "FLOPs per token", 0),
        Column(metrics.QUALITY_AT_HALF, "at half of the steps", 4),
        Column(metrics.QUALITY, "neg. log perplexity", 4),
    ),
    (
        *_claims("switch_base", "t5_base", "Switch-Base is ahead of T5-Base"),
        *_claims("switch_large", "t5_large", "Switch-Large is ahead of T5-Large"),
        *_claims("switch_xxl", "t5_xxl", "Switch-XXL is ahead of T5-XXL"),
        *_claims("switch_c", "t5_xxl", "Switch-C is ahead of T5-XXL"),
    ),
    baseline="t5_base",
    plots=("quality_by_step", "difference_by_row"),
    notes=(
        "The paper's numbers are after 250k and 500k steps.",
        f"{trainings.note_experts()} Only Switch-C has 32, in a model as wide as T5-Base. "
        "T5-XXL and Switch-XXL are three times as wide as T5-Base.",
        "Parameters and FLOPs at full size are counted on the models of docs/models.md, which "
        "explains where the paper's numbers contradict each other; the counts include routers, "
        "and the paper's do not. The other parameters and FLOPs are those of the small models.",
    ),
)

EXHIBITS = (TABLE_9,)
