"""Section 5.6: models with a trillion parameters after fine-tuning."""

from __future__ import annotations

from mtf_switch.reproduction.effects import Difference
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row

_PLACE = "Section 5.6"

SECTION_5_6 = Exhibit(
    "section_5_6",
    "Scores of the largest models after fine-tuning",
    (
        Row(
            "switch_xxl_multitask",
            "Switch-XXL, multi-task pre-training",
            None,
            "paper/section_5_6/switch_xxl_multitask.gin",
            {
                **{"super_glue": 87.5, "squad": 89.7, "anli": 65.7},
                **{"natural_questions": 34.4, "web_questions": 41.0, "trivia_qa": 47.5},
            },
            layout="layouts/switch_xxl_512.gin",
        ),
        Row(
            *("switch_xxl", "Switch-XXL", None, "paper/table_9/switch_xxl.gin"),
            paper={"squad": 89.6},
            layout="layouts/switch_xxl_512.gin",
        ),
        Row(
            *("switch_c", "Switch-C", None, "paper/table_9/switch_c.gin"),
            paper={"squad": 87.7},
            layout="layouts/expert_2048.gin",
        ),
    ),
    (
        Column("super_glue", "SuperGLUE (test)", 1),
        Column("squad", "SQuAD", 1),
        Column("anli", "ANLI", 1),
        Column("natural_questions", "Natural Questions", 1),
        Column("web_questions", "Web Questions", 1),
        Column("trivia_qa", "TriviaQA", 1),
    ),
    (
        Claim(
            "On SQuAD, Switch-C, which has more parameters, is behind Switch-XXL, which has "
            "more FLOPs per token",
            _PLACE,
            Difference("switch_xxl", "switch_c", "squad"),
        ),
    ),
    baseline="switch_xxl",
    plots=(),
    only_at_paper_scale="Nothing stands for it at small scale: its claims are about models of "
    "395B and 1.6T parameters on T5's mixture of all tasks, whose data must be downloaded. "
    "`reproduce section_5_6 --scale=paper` prints the commands.",
    needs="a TPU pod; --scale=paper",
)

EXHIBITS = (SECTION_5_6,)
