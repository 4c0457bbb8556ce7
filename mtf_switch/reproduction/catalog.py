"""All exhibits, by name."""

from __future__ import annotations

from collections.abc import Sequence

from mtf_switch.errors import UserError, suggest_names
from mtf_switch.reproduction.exhibit import Exhibit, Row, Training
from mtf_switch.reproduction.exhibits import (
    appendix_b,
    figure_3,
    figure_4,
    figure_7,
    table_1,
    table_2,
    table_3,
    table_6,
    table_9,
    table_10,
    table_11,
)

# In the order of their nearness to the paper's headline, in which `all` runs them.
_MODULES = (
    *(figure_4, table_1, table_3, table_11, table_2, table_10, table_6, figure_3, appendix_b),
    *(table_9, figure_7),
)
EXHIBITS = {exhibit.name: exhibit for module in _MODULES for exhibit in module.EXHIBITS}
ALL = "all"
# Sections whose claims are those of tables and figures.
SECTIONS = {
    "section_2_4": ("table_2", "table_3"),
    "section_3_2": ("figure_5",),
    "section_4_3": ("figure_7", "figure_8"),
}
# What is in the paper but not trained by this command, and where it is.
_FINE_TUNING = "fine-tuning: make demo-finetune and docs/finetuning.md"
_DISTILLATION = "distillation on SuperGLUE: the command distil and docs/distillation.md"
ELSEWHERE = {
    "table_4": _FINE_TUNING,
    "table_5": _FINE_TUNING,
    "table_8": _DISTILLATION,
    "figure_9": "layouts: plan --compare, docs/scaling.md and docs/layouts.md",
    "figure_13": "upstream quality against downstream scores: not reproduced yet",
    "section_4_2": _DISTILLATION,
    "section_5_6": "Switch-XXL on many tasks: gin/paper/section_5_6",
}


def find(names: Sequence[str]) -> list[Exhibit]:
    """Returns exhibits by their names, each once.

    Args:
      names: Names of exhibits or of SECTIONS; "all" stands for every exhibit.

    Raises:
      UserError: If there is none of a name; the message has the nearest names.
    """
    names = [part for name in names for part in SECTIONS.get(name, (name,))]
    for name in names:
        if name in ELSEWHERE:
            label = name.replace("_", " ").capitalize()
            raise UserError(
                f"{label} is not among what this command trains: {ELSEWHERE[name]}."
            )
        if name not in (*EXHIBITS, ALL):
            raise UserError(
                f"There is no table, figure or section {name!r}."
                f"{suggest_names(name, EXHIBITS)} reproduce --list lists all."
            )
    chosen = list(EXHIBITS) if ALL in names else list(dict.fromkeys(names))
    return [EXHIBITS[name] for name in chosen]


def select_rows(exhibit: Exhibit, names: Sequence[str]) -> list[Row]:
    """Returns the rows of an exhibit with these names; all rows without names.

    Raises:
      UserError: If a row does not exist; the message lists the rows.
    """
    known = [row.name for row in exhibit.rows]
    for name in names:
        if name not in known:
            raise UserError(
                f"{exhibit.label} has no row {name!r}.{suggest_names(name, known)} Its rows "
                f"are {', '.join(known)}."
            )
    return [row for row in exhibit.rows if not names or row.name in names]


def find_row(name: str) -> tuple[Exhibit, Row]:
    """Returns a row by its name "table_11/argmax".

    Raises:
      UserError: If it does not exist.
    """
    exhibit_name, _, row_name = name.partition("/")
    if not row_name:
        raise UserError(
            f"{name!r} is not a row: write the exhibit and the row, such as table_11/argmax."
        )
    (exhibit,) = find([exhibit_name])
    (row,) = select_rows(exhibit, [row_name])
    return exhibit, row


def list_trainings(exhibits: Sequence[Exhibit], rows: Sequence[str] = ()) -> list[Training]:
    """Returns the trainings of exhibits, each once, in order."""
    chosen = [row for exhibit in exhibits for row in select_rows(exhibit, rows)]
    return list(dict.fromkeys(row.training for row in chosen))
