"""Tables 4 and 5 of the paper: validation scores of its models after fine-tuning."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Table5Column:
    """One column of Table 5.

    Attributes:
      title: The column's printed title.
      task: The task or mixture of this project.
      scored_task: The reported subtask: often the task itself, "" for an average.
      metric: The metric of that subtask, or the name of the average.
      values: Values of the models in `MODELS`.
    """

    title: str
    task: str
    scored_task: str
    metric: str
    values: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Table4Row:
    """One row of Table 4.

    Attributes:
      model: The model, as in Table 5.
      dropout: Dropout rate outside the experts.
      expert_dropout: Dropout rate inside the experts; None for a dense model.
      glue, cnndm, squad, superglue: GLUE average, ROUGE-2 of CNN/DailyMail, exact match of
        SQuAD, SuperGLUE average.
    """

    model: str
    dropout: float
    expert_dropout: float | None
    glue: float
    cnndm: float
    squad: float
    superglue: float


MODELS = ("T5-Base", "Switch-Base", "T5-Large", "Switch-Large")

TABLE_5 = (
    Table5Column(
        "GLUE", "glue_v002_proportional", "", "glue_average", (84.3, 86.7, 87.8, 88.5)
    ),
    Table5Column(
        "SQuAD",
        "squad_v010_allanswers",
        "squad_v010_allanswers",
        "em",
        (85.5, 87.2, 88.1, 88.6),
    ),
    Table5Column(
        "SuperGLUE",
        "super_glue_v102_proportional",
        "",
        "super_glue_average",
        (75.1, 79.5, 82.7, 84.7),
    ),
    Table5Column(
        "Winogrande (XL)",
        "winogrande_xl",
        "winogrande_xl",
        "accuracy",
        (66.6, 73.3, 79.1, 83.0),
    ),
    Table5Column("XSum", "xsum", "xsum", "rouge2", (18.7, 20.3, 20.9, 22.3)),
    Table5Column("ANLI (R3)", "anli", "anli_r3", "accuracy", (51.8, 54.0, 56.6, 58.6)),
    Table5Column("ARC Easy", "arc_easy", "arc_easy", "accuracy", (56.7, 61.3, 68.8, 66.0)),
    Table5Column(
        "ARC Challenge", "arc_challenge", "arc_challenge", "accuracy", (35.5, 32.8, 35.5, 35.5)
    ),
    Table5Column(
        "CB Web QA", "web_questions_open", "web_questions_open", "em", (26.6, 27.4, 27.7, 31.3)
    ),
    Table5Column(
        "CB Natural QA",
        "natural_questions_open",
        "natural_questions_open",
        "em",
        (25.8, 26.8, 27.6, 29.5),
    ),
    Table5Column(
        "CB Trivia QA", "trivia_qa_open", "trivia_qa_open", "em", (24.5, 30.7, 29.5, 36.9)
    ),
)

TABLE_4 = (
    Table4Row("T5-Base", 0.1, None, 82.9, 19.6, 83.5, 72.4),
    Table4Row("Switch-Base", 0.1, 0.1, 84.7, 19.1, 83.7, 73.0),
    Table4Row("Switch-Base", 0.2, 0.2, 84.4, 19.2, 83.9, 73.2),
    Table4Row("Switch-Base", 0.3, 0.3, 83.9, 19.6, 83.4, 70.7),
    Table4Row("Switch-Base", 0.1, 0.4, 85.2, 19.6, 83.7, 73.0),
)


def find_column(task: str, metric: str) -> Table5Column | None:
    """Finds the column of Table 5 that reports a metric; None if no column does.

    Args:
      task: The subtask, or "" for an average.
      metric: Its metric, or the name of the average.
    """
    for column in TABLE_5:
        if (column.scored_task, column.metric) == (task, metric):
            return column
    return None
