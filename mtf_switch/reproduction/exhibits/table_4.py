"""Tables 4 and 5, and Figure 13: models that are pre-trained, and then fine-tuned."""

from __future__ import annotations

import dataclasses
import statistics

from mtf_switch.downstream import paper_tables
from mtf_switch.reproduction import metrics
from mtf_switch.reproduction.effects import Difference, RankCorrelation
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row, Training
from mtf_switch.reproduction.exhibits import trainings
from mtf_switch.reproduction.exhibits.trainings import (
    EXPERTS_TUNED,
    SCORE_COLUMNS,
    SWITCH,
    T5,
    tune,
)

_DENSE = {"layout": trainings.DATA_32}
# The mean over the columns of Table 4, which the paper does not print.
_MEANS = {
    (row.model, row.dropout, row.expert_dropout): statistics.fmean(
        (row.glue, row.cnndm, row.squad, row.superglue)
    )
    for row in paper_tables.TABLE_4
}
_TASKS = (
    "The paper's tasks need downloads. Here, each model is fine-tuned on the mixture of the "
    "three tasks of the embedded text with gin/runs/demo_finetune.gin; docs/finetuning.md "
    "describes them. The score of a model is the mean over the tasks, each at its best "
    "checkpoint, which is chosen on the same examples, as in the paper."
)
_SOURCES = (
    "A model is pre-trained once for a seed, and all rows of that seed start from it. It is "
    "the model of figure_4 and table_9, trained again."
)


def _table_4(name: str, title: str, training: Training, *rates: float | None) -> Row:
    is_dense = rates[1] is None
    model = "T5-Base" if is_dense else "Switch-Base"
    file = "t5_dropout_0.1" if is_dense else name
    pretraining = "t5_base" if is_dense else "switch_base"
    return Row(
        name,
        title,
        training,
        f"paper/table_4/{file}.gin",
        {metrics.DOWNSTREAM: _MEANS[(model, *rates)]},
        paper_source=f"paper/table_4/pretrain_{pretraining}.gin",
        **(_DENSE if is_dense else {}),
    )


_SWITCH = "switch_dropout_0.1_expert_0.4"
_COLUMNS = (
    *SCORE_COLUMNS,
    Column(metrics.UPSTREAM, "neg. log perplexity before fine-tuning", 4),
)


def _claim(text: str, place: str, first: str, second: str) -> Claim:
    return Claim(text, place, Difference(first, second, metrics.DOWNSTREAM))


_PLACE_4 = "Section 2.4, Table 4"
TABLE_4 = Exhibit(
    "table_4",
    "Dropout of experts in fine-tuning",
    (
        _table_4("t5", "T5-Base, d = 0.1", tune(T5, "t5_dropout_0.1"), 0.1, None),
        *(
            _table_4(
                f"switch_dropout_{rate}",
                f"Switch-Base, d = {rate}, expert d = {rate}",
                tune(SWITCH, f"switch_dropout_{rate}"),
                *(rate, rate),
            )
            for rate in (0.1, 0.2, 0.3)
        ),
        _table_4(
            *(_SWITCH, "Switch-Base, d = 0.1, expert d = 0.4", tune(SWITCH, EXPERTS_TUNED)),
            *(0.1, 0.4),
        ),
    ),
    _COLUMNS,
    (
        _claim(
            "A larger dropout of the experts alone (0.4) improves the scores",
            *(_PLACE_4, _SWITCH, "switch_dropout_0.1"),
        ),
        _claim(
            "A larger dropout of all layers (0.3) makes them worse",
            *(_PLACE_4, "switch_dropout_0.1", "switch_dropout_0.3"),
        ),
        _claim(
            "Switch-Base with a dropout of 0.4 of the experts is ahead of T5-Base",
            *(_PLACE_4, _SWITCH, "t5"),
        ),
    ),
    baseline="t5",
    plots=("difference_by_row",),
    notes=(
        "The paper's average is the mean over its four columns.",
        *(trainings.note_experts(), _TASKS, _SOURCES),
    ),
    paper_tasks=(
        *("glue_v002_proportional", "cnn_dailymail_v002", "squad_v010_allanswers"),
        "super_glue_v102_proportional",
    ),
)


def _table_5(name: str, model: str, training: Training) -> Row:
    place = paper_tables.MODELS.index(model)
    printed = [column.values[place] for column in paper_tables.TABLE_5]
    file = f"paper/table_5/{name}.gin"
    return Row(
        name,
        model,
        training,
        file,
        {metrics.DOWNSTREAM: statistics.fmean(printed)},
        paper_source=file,
        **(_DENSE if model.startswith("T5") else {}),
    )


_PAIRS = (
    _table_5("t5_base", "T5-Base", tune(T5, "t5_dropout_0.1")),
    _table_5("switch_base", "Switch-Base", tune(SWITCH, EXPERTS_TUNED)),
    _table_5("t5_large", "T5-Large", tune(trainings.T5_LARGE, "t5_dropout_0.1")),
    _table_5("switch_large", "Switch-Large", tune(trainings.SWITCH_LARGE, EXPERTS_TUNED)),
)
_TASKS_5 = tuple(dict.fromkeys(column.task for column in paper_tables.TABLE_5))
_PLACE_5 = "Section 4.1, Table 5"
TABLE_5 = Exhibit(
    "table_5",
    "Fine-tuning of two dense and sparse pairs",
    _PAIRS,
    _COLUMNS,
    (
        _claim("Switch-Base is ahead of T5-Base", _PLACE_5, "switch_base", "t5_base"),
        _claim("Switch-Large is ahead of T5-Large", _PLACE_5, "switch_large", "t5_large"),
    ),
    baseline="t5_base",
    plots=("difference_by_row",),
    notes=(
        "The paper's average is the mean over its columns.",
        *(trainings.note_experts(128), _TASKS, _SOURCES),
    ),
    paper_tasks=_TASKS_5,
)


def _more(experts: int) -> Row:
    return Row(
        f"switch_{experts}",
        f"Switch-Base, {experts} experts",
        tune(trainings.switch(experts), EXPERTS_TUNED),
        f"paper/figure_4/switch_base_{experts}.gin",
        paper_source=f"paper/figure_4/switch_base_{experts}.gin",
        layout=trainings.choose_layout(experts),
    )


# The figure prints no numbers of these models, so its rows have none.
_ALL = (*(dataclasses.replace(row, paper={}) for row in _PAIRS), _more(2), _more(32))
FIGURE_13 = Exhibit(
    "figure_13",
    "Quality before fine-tuning against scores after it",
    _ALL,
    _COLUMNS,
    (
        Claim(
            "Models that are better in pre-training have better scores after fine-tuning",
            "Appendix E, Figure 13",
            RankCorrelation(
                tuple(row.name for row in _ALL), metrics.UPSTREAM, metrics.DOWNSTREAM
            ),
        ),
    ),
    baseline="t5_base",
    plots=("score_by_upstream", "difference_by_row"),
    notes=(
        "The figure prints no numbers. Its scores are those of SuperGLUE and TriviaQA.",
        "The rank correlation is Spearman's over the models of a seed; its interval is that "
        "over seeds.",
        *(f"Without a number, {trainings.note_experts().lower()}", _TASKS, _SOURCES),
    ),
    paper_tasks=("super_glue_v102_proportional", "trivia_qa_open"),
)

EXHIBITS = (TABLE_4, TABLE_5, FIGURE_13)
