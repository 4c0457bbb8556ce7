"""Plans from which weights of its teacher a student starts (Section 4.2, Table 6, ruling 44).

"non_expert" is the paper's: every weight that the teacher has at the same place, except where
the teacher has experts; there the student's feed-forward layer is new. The others are those of
OneS (arXiv 2201.10890), and also start these layers from the experts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from mtf_switch.distillation import roles
from mtf_switch.distillation.roles import FEED_FORWARD, Role
from mtf_switch.distillation.settings import Init
from mtf_switch.errors import UserError, join_first

Shapes = Mapping[str, Sequence[int]]

NEW, COPIED = "new", "copied"
# Init -> how the experts' matrices become one.
COMBINED: dict[Init, str] = {
    "mean_expert": "mean of the experts",
    "sum_expert": "sum of the experts",
    "top_expert": "top units of each expert",
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the initial value of a student's variable comes from.

    Attributes:
      variable: Its name.
      source: The teacher's variable, or None for a random value.
      how: NEW, COPIED or a value of COMBINED.
      kernels: The teacher's matrices into the hidden units and out of them, in this order,
        which decide which units are the top ones; empty for other origins.
    """

    variable: str
    source: str | None
    how: str
    kernels: tuple[str, ...] = ()


def plan(student: Shapes, teacher: Shapes, init: Init) -> list[Origin]:
    """Plans the initial value of each variable of a student.

    Layers correspond by their roles: the third feed-forward layer of the encoder to the third,
    and so on.

    Args:
      student: The shape of each trained variable of the student, by name.
      teacher: The same for the teacher.
      init: The rule; see `settings.distillation`.

    Returns:
      The origins, in the order of the student's variables.

    Raises:
      UserError: If weights that the student is to take are missing, or have another shape.
    """
    if init == "none":
        return [Origin(name, None, NEW) for name in student]
    _check_layers(student, teacher, init)
    by_role = {role: name for name, role in roles.assign(teacher).items()}
    of_student = roles.assign(student)
    origins = [
        _find_origin(name, role, by_role, teacher, init) for name, role in of_student.items()
    ]
    misfits = [
        f"{origin.variable} is {list(student[origin.variable])} in the student, and "
        f"{_describe(origin, teacher)} in the teacher"
        for origin in origins
        if not _fits(origin, student[origin.variable], teacher)
    ]
    if misfits:
        raise UserError(
            f"The student cannot start from its teacher's weights (--init={init}): "
            f"{join_first(misfits)}. Choose a --student with the teacher's sizes, or "
            "--init=none."
        )
    return origins


def _check_layers(student: Shapes, teacher: Shapes, init: Init) -> None:
    """Checks that both models have the same number of layers of each role."""
    own, given = roles.find_layers(student), roles.find_layers(teacher)
    for stack, role in sorted(own.keys() | given.keys()):
        counts = [len(layers.get((stack, role), ())) for layers in (own, given)]
        if counts[0] != counts[1]:
            raise UserError(
                f"The student cannot start from its teacher's weights (--init={init}): it has "
                f"{counts[0]} {role} layers in its {stack.rstrip('/') or 'model'}, and the "
                f"teacher {counts[1]}. Choose a --student with as many, or --init=none."
            )
    is_sparse = any(map(roles.is_of_experts, student))
    if init in COMBINED and is_sparse:
        raise UserError(
            f"--init={init} makes one feed-forward layer of the teacher's experts, but the "
            "student has experts itself. Choose a dense --student, or --init=non_expert."
        )
    if init in COMBINED and not any(map(roles.is_of_experts, teacher)):
        raise UserError(
            f"--init={init} starts from the teacher's experts, but the teacher is dense: use "
            "--init=non_expert."
        )


def _find_origin(
    name: str, role: Role, by_role: Mapping[Role, str], teacher: Shapes, init: Init
) -> Origin:
    source = by_role.get(role)
    if role.role != FEED_FORWARD or role.part.split("/")[0] == "rms_norm":
        return Origin(name, source, COPIED)
    if roles.is_of_experts(name):
        return Origin(name, None, NEW)
    is_sparse = any(
        roles.is_of_experts(other)
        for key, other in by_role.items()
        if (key.stack, key.role, key.number) == (role.stack, role.role, role.number)
    )
    if not is_sparse:
        return Origin(name, source, COPIED)
    if init not in COMBINED:
        return Origin(name, None, NEW)
    kernels = ()
    if init == "top_expert" and source is not None:
        scope = source.split(f"/{roles.SPARSE_CLASS}/")[0]
        kernels = tuple(
            sorted(
                other
                for other in teacher
                if other.startswith(f"{scope}/{roles.SPARSE_CLASS}/w")
            )
        )
    return Origin(name, source, COMBINED[init], kernels)


def _fits(origin: Origin, shape: Sequence[int], teacher: Shapes) -> bool:
    if origin.how == NEW:
        return True
    found = teacher.get(origin.source)
    if origin.how in COMBINED.values():
        found = found and found[1:]
    return found is not None and list(found) == list(shape)


def _describe(origin: Origin, teacher: Shapes) -> str:
    return "missing" if origin.source is None else f"{list(teacher[origin.source])}"


def format_table(origins: Sequence[Origin], init: Init, checkpoint: str) -> str:
    """Formats one line for all variables whose names differ only in their numbers."""

    def shorten(name: str | None) -> str:
        return re.sub(r"(?<=block_|layer_)\d+", "*", name) if name else "-"

    groups: dict[tuple[str, str, str], int] = {}
    for origin in origins:
        key = (shorten(origin.variable), origin.how, shorten(origin.source))
        groups[key] = groups.get(key, 0) + 1
    head = ("variable of the student", "origin", "variable of the teacher")
    widths = [max(len(row[i]) for row in (head, *groups)) for i in range(3)]
    taken = sum(origin.how != NEW for origin in origins)

    def format_row(row: Sequence[str], number: object) -> str:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        return f"{cells[0]}  {number!s:>6s}  {cells[1]}  {cells[2]}".rstrip()

    return "\n".join(
        [
            f"Initial weights: --init={init}, {taken} of {len(origins)} variables from "
            f"{checkpoint}; new ones are random.",
            format_row(head, "number"),
            *(format_row(row, number) for row, number in groups.items()),
        ]
    )
