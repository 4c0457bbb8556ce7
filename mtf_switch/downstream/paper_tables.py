"""Tables 4 and 5 of the paper: what its models score after fine-tuning, on validation sets."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of Table 5.

    Attributes:
      title: as printed.
      task: the task or mixture here.
      scored: the subtask that is reported, the task itself, or "" for an average.
      metric: of it, or the average's name.
      values: (T5-Base, Switch-Base, T5-Large, Switch-Large).
    """

    title: str
    task: str
    scored: str
    metric: str
    values: tuple[float, float, float, float]


MODELS = ("T5-Base", "Switch-Base", "T5-Large", "Switch-Large")

TABLE_5 = (
    Column("GLUE", "glue_v002_proportional", "", "glue_average", (84.3, 86.7, 87.8, 88.5)),
    Column(
        "SQuAD",
        "squad_v010_allanswers",
        "squad_v010_allanswers",
        "em",
        (85.5, 87.2, 88.1, 88.6),
    ),
    Column(
        "SuperGLUE",
        "super_glue_v102_proportional",
        "",
        "super_glue_average",
        (75.1, 79.5, 82.7, 84.7),
    ),
    Column(
        "Winogrande (XL)",
        "winogrande_xl",
        "winogrande_xl",
        "accuracy",
        (66.6, 73.3, 79.1, 83.0),
    ),
    Column("XSum", "xsum", "xsum", "rouge2", (18.7, 20.3, 20.9, 22.3)),
    Column("ANLI (R3)", "anli", "anli_r3", "accuracy", (51.8, 54.0, 56.6, 58.6)),
    Column("ARC Easy", "arc_easy", "arc_easy", "accuracy", (56.7, 61.3, 68.8, 66.0)),
    Column(
        "ARC Challenge", "arc_challenge", "arc_challenge", "accuracy", (35.5, 32.8, 35.5, 35.5)
    ),
    Column(
        "CB Web QA", "web_questions_open", "web_questions_open", "em", (26.6, 27.4, 27.7, 31.3)
    ),
    Column(
        "CB Natural QA",
        "natural_questions_open",
        "natural_questions_open",
        "em",
        (25.8, 26.8, 27.6, 29.5),
    ),
    Column("CB Trivia QA", "trivia_qa_open", "trivia_qa_open", "em", (24.5, 30.7, 29.5, 36.9)),
)

# Table 4: dropout, expert dropout (None for a dense model), then the columns. CNN/DailyMail is
# ROUGE-2, SQuAD exact match.
TABLE_4_COLUMNS = ("GLUE", "CNNDM", "SQuAD", "SuperGLUE")
TABLE_4 = (
    ("T5-Base", 0.1, None, (82.9, 19.6, 83.5, 72.4)),
    ("Switch-Base", 0.1, 0.1, (84.7, 19.1, 83.7, 73.0)),
    ("Switch-Base", 0.2, 0.2, (84.4, 19.2, 83.9, 73.2)),
    ("Switch-Base", 0.3, 0.3, (83.9, 19.6, 83.4, 70.7)),
    ("Switch-Base", 0.1, 0.4, (85.2, 19.6, 83.7, 73.0)),
)


def of(task: str, metric: str) -> Column | None:
    """The column of Table 5 that reports a metric of a task, or an average; None without one.

    Args:
      task: a subtask's name, or "" for an average.
      metric: its name.
    """
    return next((c for c in TABLE_5 if (c.scored, c.metric) == (task, metric)), None)
