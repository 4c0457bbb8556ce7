"""Tables 6 and 7: dense students of sparse teachers (Section 4.2)."""

from __future__ import annotations

from mtf_switch.reproduction.effects import Difference, ShareOfGain
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row, Training
from mtf_switch.reproduction.exhibits import trainings

_MIX = 0.25
_STUDENT_FILE = "paper/table_6/distillation_init_mix.gin"
# The number of experts of Table 7's teachers -> quality of the teacher and of its student.
_TEACHERS = {
    16: (-1.505, -1.587),
    32: (-1.474, -1.585),
    64: (-1.444, -1.579),
    128: (-1.432, -1.582),
    256: (-1.427, -1.578),
}
# What the columns of students are.
_MEASURES = (
    "Compression is 1 - the student's parameters / the teacher's. The teacher's gain is its "
    "quality - that of t5; a student keeps (its quality - that of t5) / gain of it, paired by "
    "seed. A seed in which the teacher is not ahead of t5 has no gain, and is left out. The "
    "paper's column follows from its qualities."
)


def _student(
    name: str, init: str, soft: float, teacher: Training = trainings.SWITCH
) -> Training:
    return Training(
        f"student_{name}",
        params=(f"distillation.init = {init!r}", f"distillation.soft = {soft}"),
        source=teacher,
        command="distil",
    )


_FULL = _student("init_mix", "non_expert", _MIX)
_T5 = Row("t5", "T5-Base", trainings.T5, "paper/table_7/t5_base.gin", {"quality": -1.636})
_TEACHER = Row(
    "teacher",
    "Switch-Base (teacher)",
    trainings.SWITCH,
    "paper/table_7/switch_base_64.gin",
    {"quality": -1.444},
)


def _pruned(experts: int) -> Row:
    kept = "1 expert (a dense model)" if experts == 1 else f"{experts} experts"
    return Row(
        f"pruned_{experts}",
        f"beyond the paper: the teacher pruned to {kept}",
        Training(
            f"switch_8_pruned_{experts}",
            source=trainings.SWITCH,
            command="prune",
            experts=experts,
        ),
        _TEACHER.paper_file,
        paper_source=_TEACHER.paper_file,
        layout=trainings.DATA_32,
        source_layout=trainings.EXPERT_32,
        teacher=_TEACHER.name,
    )


def _row(name: str, title: str, training: Training, quality: float | None = None) -> Row:
    file = f"paper/table_6/{name}.gin" if quality is not None else _STUDENT_FILE
    paper = {} if quality is None else {"quality": quality}
    return Row(
        *(name, title, training, file, paper),
        paper_source=_TEACHER.paper_file,
        teacher=_TEACHER.name,
    )


def _beyond(init: str, title: str) -> Row:
    training = _student(init, init, _MIX)
    return _row(init, f"beyond the paper: start from the {title}", training)


def _control(name: str, title: str, soft: float, sparse: str) -> Row:
    """Returns a student of the dense model, whose gain is compared with that of `sparse`."""
    return Row(
        name,
        f"beyond the paper: a control, {title}",
        _student(f"of_t5_{soft}", "non_expert", soft, trainings.T5),
        _STUDENT_FILE,
        layout=trainings.DATA_32,
        paper_source="paper/table_7/t5_base.gin",
        teacher=sparse,
    )


def _claim(text: str, first: str, second: str) -> Claim:
    return Claim(text, "Section 4.2, Table 6", Difference(first, second))


TABLE_6 = Exhibit(
    "table_6",
    "Distillation of a sparse model into a dense one",
    (
        _T5,
        _TEACHER,
        _row("distillation", "distillation", _student("alone", "none", 1.0), -1.631),
        _row(
            "distillation_init",
            "+ non-expert weights of the teacher",
            _student("init", "non_expert", 1.0),
            -1.598,
        ),
        _row("distillation_init_mix", "+ 0.75 labels, 0.25 teacher", _FULL, -1.580),
        _row(
            "init",
            "non-expert weights, no distillation",
            _student("init_only", "non_expert", 0.0),
            -1.639,
        ),
        _control("control", "start from t5, no distillation", soft=0.0, sparse=_TEACHER.name),
        _control(
            "control_mix", "t5 is the teacher of the mix", soft=_MIX, sparse=_TEACHER.name
        ),
        _beyond("mean_expert", "mean of the experts"),
        _beyond("sum_expert", "sum of the experts"),
        _beyond("top_expert", "top units of each expert"),
        *map(_pruned, (1, 2, 4)),
    ),
    (Column("parameters", "parameters", 0), Column("quality", "neg. log perplexity", 4)),
    (
        _claim("The sparse teacher is ahead of the dense model", "teacher", "t5"),
        _claim("Distillation alone helps", "distillation", "t5"),
        _claim(
            "The teacher's non-expert weights add to it", "distillation_init", "distillation"
        ),
        _claim(
            "The mix with the labels adds to it", "distillation_init_mix", "distillation_init"
        ),
        Claim(
            "A student keeps at least 29% of the teacher's gain (the paper: about 30%)",
            "Section 4.2, Table 6",
            ShareOfGain("distillation_init_mix", "t5", "teacher"),
            above=0.29,
        ),
        Claim(
            "A student keeps some of the teacher's gain",
            "Section 4.2, Table 6",
            ShareOfGain("distillation_init_mix", "t5", "teacher"),
        ),
        trainings.ahead_of_control(
            "a student of the sparse teacher is ahead of one of the dense model",
            *("distillation_init_mix", "control_mix"),
        ),
        trainings.ahead_of_control(
            "a student is ahead of the dense model that trains for as long without a teacher",
            *("distillation_init_mix", "control"),
        ),
    ),
    baseline="t5",
    plots=("difference_by_row", "quality_by_step"),
    notes=(
        f"{trainings.note_experts(64)} Figure 4 has other numbers.",
        "A student of a seed learns from the teacher of that seed. Both read the same batches.",
        "A pruned model keeps the experts of each layer that matter most on the training text, "
        "without a step of training; docs/distillation.md explains the rank.",
        _MEASURES,
        trainings.CONTROLS,
        "The paper does not say that its rows without a mix have the teacher's loss alone; "
        "gin/paper/table_6 reads it so.",
    ),
)


def _of_teacher(experts: int, teacher: float, student: float) -> tuple[Row, Row]:
    title = f"Switch-Base, {experts} experts"
    name = f"{experts}_experts"
    of_student = _student(f"of_{experts}", "non_expert", _MIX, trainings.switch(experts))
    layout = trainings.choose_layout(experts)
    return (
        Row(
            f"teacher_{name}",
            title,
            trainings.switch(experts),
            f"paper/table_7/switch_base_{experts}.gin",
            {"quality": teacher},
            layout=layout,
        ),
        Row(
            f"student_{name}",
            f"the student of {title}",
            of_student,
            "paper/table_7/student.gin",
            {"quality": student},
            layout=layout,
            paper_source=f"paper/table_7/switch_base_{experts}.gin",
            teacher=f"teacher_{name}",
        ),
    )


TABLE_7 = Exhibit(
    "table_7",
    "Students of five sparse teachers",
    (
        _T5,
        _control("control_mix", "t5 is the teacher", soft=_MIX, sparse="teacher_64_experts"),
        *(row for n, pair in _TEACHERS.items() for row in _of_teacher(n, *pair)),
    ),
    (Column("parameters", "parameters", 0), Column("quality", "neg. log perplexity", 4)),
    (
        *(
            Claim(
                f"The student of {experts} experts keeps some of the teacher's gain",
                "Section 4.2, Table 7",
                ShareOfGain(f"student_{experts}_experts", "t5", f"teacher_{experts}_experts"),
            )
            for experts in _TEACHERS
        ),
        *(
            trainings.ahead_of_control(
                f"the student of {experts} experts is ahead of that of the dense model",
                *(f"student_{experts}_experts", "control_mix"),
            )
            for experts in _TEACHERS
        ),
    ),
    baseline="t5",
    plots=("difference_by_row",),
    notes=(
        "A student of a seed learns from the teacher of that seed.",
        _MEASURES,
        trainings.CONTROLS,
    ),
)

EXHIBITS = (TABLE_6, TABLE_7)
