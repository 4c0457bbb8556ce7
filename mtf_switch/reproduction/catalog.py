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
    figure_9,
    section_5_6,
    table_1,
    table_2,
    table_3,
    table_4,
    table_6,
    table_8,
    table_9,
    table_10,
    table_11,
)

# In the order of their nearness to the paper's headline, in which `all` runs them.
_MODULES = (
    *(figure_4, table_1, table_3, table_6, table_11, table_2, table_10, table_4, table_8),
    *(figure_3, appendix_b, table_9, figure_9, figure_7, section_5_6),
)
EXHIBITS = {exhibit.name: exhibit for module in _MODULES for exhibit in module.EXHIBITS}
ALL = "all"
# Sections whose claims are those of tables and figures.
SECTIONS = {
    "section_2_4": ("table_2", "table_3", "table_4"),
    "section_3_2": ("figure_5",),
    "section_4_2": ("table_6", "table_7", "table_8"),
    "section_4_3": ("figure_7", "figure_8"),
    "section_5": ("figure_9",),
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
        if name not in (*EXHIBITS, ALL):
            raise UserError(
                f"There is no table, figure or section {name!r}."
                f"{suggest_names(name, [*EXHIBITS, *SECTIONS])} reproduce --list lists all."
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
      UserError: If it does not exist, if the name is that of several exhibits, or if nothing
        stands for the row at small scale.
    """
    exhibit_name, _, row_name = name.partition("/")
    if not row_name:
        raise UserError(
            f"{name!r} is not a row: write the exhibit and the row, such as table_11/argmax."
        )
    if exhibit_name == ALL or exhibit_name in SECTIONS:
        raise UserError(
            f"{exhibit_name!r} stands for several tables and figures, and a row belongs to one "
            f"of them. Write its name, such as {find([exhibit_name])[0].name}/ROW."
        )
    (exhibit,) = find([exhibit_name])
    (row,) = select_rows(exhibit, [row_name])
    if row.training is None:
        raise UserError(f"{name} has no result. {exhibit.only_at_paper_scale}")
    return exhibit, row


def list_trainings(exhibits: Sequence[Exhibit], rows: Sequence[str] = ()) -> list[Training]:
    """Returns the trainings of exhibits, each once, in order."""
    chosen = [row for exhibit in exhibits for row in select_rows(exhibit, rows)]
    return list(dict.fromkeys(row.training for row in chosen if row.training))
