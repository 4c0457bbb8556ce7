"""All exhibits, by name."""

from __future__ import annotations

from collections.abc import Sequence

from mtf_switch.errors import UserError, suggest_names
from mtf_switch.reproduction.exhibit import Exhibit, Row, Training
from mtf_switch.reproduction.exhibits import (
    appendix_b,
    figure_3,
    figure_4,
    table_1,
    table_2,
    table_3,
    table_10,
    table_11,
)

# In the order of their nearness to the paper's headline, in which `all` runs them.
_MODULES = (*(figure_4, table_1, table_3, table_11, table_2, table_10, figure_3, appendix_b),)
EXHIBITS = {exhibit.name: exhibit for module in _MODULES for exhibit in module.EXHIBITS}
ALL = "all"


def find(names: Sequence[str]) -> list[Exhibit]:
    """Returns exhibits by their names, each once; "all" stands for every exhibit.

    Raises:
      UserError: If there is none of a name; the message has the nearest names.
    """
    for name in names:
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
