"""Table 8: a sparse model that was fine-tuned teaches a dense student (Section 4.2)."""

from __future__ import annotations

from mtf_switch.reproduction import metrics
from mtf_switch.reproduction.effects import Difference, ShareOfGain
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row, Training
from mtf_switch.reproduction.exhibits.trainings import (
    CONTROLS,
    DATA_32,
    EXPERTS_TUNED,
    SCORE_COLUMNS,
    SWITCH,
    T5,
    ahead_of_control,
    note_experts,
    tune,
)

_PLACE = "Section 4.2, Table 8"
_TEACHER = tune(SWITCH, EXPERTS_TUNED)
_TUNED_T5 = tune(T5, "t5_dropout_0.1")


def _student(name: str, teacher: Training) -> Training:
    return Training(
        name,
        gin_files=("runs/finetune.gin", "runs/demo_finetune.gin"),
        params=("distillation.init = 'non_expert'", "distillation.soft = 0.25"),
        source=teacher,
        command="distil",
        is_scored=True,
    )


TABLE_8 = Exhibit(
    "table_8",
    "Distillation of a fine-tuned sparse model",
    (
        Row(
            *("t5", "T5-Base", _TUNED_T5, "paper/table_5/t5_base.gin"),
            paper={metrics.DOWNSTREAM: 74.6},
            paper_source="paper/table_5/t5_base.gin",
            layout=DATA_32,
        ),
        Row(
            *("teacher", "Switch-Base (teacher)", _TEACHER, "paper/table_5/switch_base.gin"),
            paper={metrics.DOWNSTREAM: 81.3},
            paper_source="paper/table_5/switch_base.gin",
        ),
        Row(
            *(
                "student",
                "Distilled T5-Base",
                _student("student_tuned", _TEACHER),
                "paper/table_8/student.gin",
            ),
            paper={metrics.DOWNSTREAM: 76.6},
            paper_source="paper/table_5/switch_base.gin",
            teacher="teacher",
        ),
        Row(
            "control",
            "beyond the paper: a control, t5 is the teacher",
            _student("student_of_tuned_t5", _TUNED_T5),
            "paper/table_8/student.gin",
            paper_source="paper/table_5/t5_base.gin",
            layout=DATA_32,
            teacher="teacher",
        ),
    ),
    (
        Column("parameters", "parameters", 0),
        *SCORE_COLUMNS,
    ),
    (
        Claim(
            "The fine-tuned sparse teacher is ahead of the dense model",
            _PLACE,
            Difference("teacher", "t5", metrics.DOWNSTREAM),
        ),
        Claim(
            "The student is ahead of the dense model",
            _PLACE,
            Difference("student", "t5", metrics.DOWNSTREAM),
        ),
        Claim(
            "The student keeps at least 29% of the teacher's gain (the paper: about 30%)",
            _PLACE,
            ShareOfGain("student", "t5", "teacher", metrics.DOWNSTREAM),
            above=0.29,
        ),
        Claim(
            "The student keeps some of the teacher's gain",
            _PLACE,
            ShareOfGain("student", "t5", "teacher", metrics.DOWNSTREAM),
        ),
        ahead_of_control(
            "a student of the sparse teacher is ahead of one of the dense model",
            *("student", "control", metrics.DOWNSTREAM),
        ),
    ),
    baseline="t5",
    plots=("difference_by_row",),
    notes=(
        note_experts(128),
        "The paper's average is SuperGLUE's. Here, it is the mean over the three tasks of the "
        "embedded text, each at its best checkpoint; docs/finetuning.md describes them.",
        "The teacher is the last checkpoint of the fine-tuned model of the same seed. The "
        "paper does not say from which weights the student starts: here from the teacher's "
        "non-expert weights, as in gin/paper/table_8.",
        "A student keeps (its average - that of t5) / (the teacher's - that of t5) of the gain."
        " A seed in which the teacher is not ahead of t5 has no gain, and is left out.",
        CONTROLS,
    ),
    paper_tasks=("super_glue_v102_proportional",),
)

EXHIBITS = (TABLE_8,)
