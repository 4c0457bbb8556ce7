"""The settings of a distillation, from gin (Section 4.2 and Table 6 of the paper)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import gin

from mtf_switch import value_rules
from mtf_switch.config import bound_settings
from mtf_switch.config.gin_statements import Reference
from mtf_switch.errors import UserError
from mtf_switch.value_rules import Rule

Init = Literal["non_expert", "none", "mean_expert", "sum_expert", "top_expert"]
INITS: tuple[Init, ...] = get_args(Init)
TeacherCapacity = Literal["evaluation", "unlimited"]


def _number_or_schedule(numbers: Rule) -> Rule:
    def accepts(value: Any) -> bool:
        parts = value if isinstance(value, (list, tuple)) else [value]
        are_schedules = bool(parts) and all(isinstance(part, Reference) for part in parts)
        return numbers.accepts(value) or are_schedules

    example = "@learning_rate_schedules.linear_decay"
    meaning = f"{numbers.meaning}, or a schedule or a list of them, such as {example}"
    return Rule(meaning, accepts)


value_rules.declare(
    "distillation",
    teacher=value_rules.text().or_none(),
    init=value_rules.one_of(*INITS),
    soft=_number_or_schedule(value_rules.number(0, high=1)),
    temperature=_number_or_schedule(value_rules.number(above=0)),
    teacher_capacity=value_rules.one_of(*get_args(TeacherCapacity)),
    cache=value_rules.text().or_none(),
    cache_top_k=value_rules.whole(1),
)


@dataclasses.dataclass(frozen=True)
class DistillationSettings:
    """How a student learns from its teacher.

    Attributes:
      teacher: The path of the teacher's checkpoint.
      init: From which of the teacher's weights the student starts, see `initial_values`.
      soft: The share of the teacher in the loss, or a function from step to share.
      temperature: T, or a function from step to T.
      teacher_capacity: Whether the teacher's experts have the capacity of evaluation, or room
        for every token.
      cache: The folder of the teacher's probabilities, see `teacher_cache`; None for none.
      cache_top_k: The number of tokens whose probabilities the cache keeps.
    """

    teacher: str
    init: Init = "non_expert"
    soft: float | Callable = 0.25
    temperature: float | Callable = 1.0
    teacher_capacity: TeacherCapacity = "evaluation"
    cache: str | None = None
    cache_top_k: int = 64


# The command distil binds the teacher, and config.gin keeps it for the same command.
@gin.configurable(module="mtf_switch.distillation")
def distillation(
    teacher: str | None = None,
    init: Init = "non_expert",
    soft: Any = 0.25,
    temperature: Any = 1.0,
    teacher_capacity: TeacherCapacity = "evaluation",
    cache: str | None = None,
    cache_top_k: int = 64,
) -> dict[str, Any]:
    """Returns the settings of a distillation, by name.

    `soft` and `temperature` may also be a schedule of Mesh TF, or a list of schedules that are
    multiplied.

    Args:
      teacher: The path of the teacher's checkpoint.
      init: The teacher's weights from which the student starts (`--init`): "non_expert", the
        paper's; "none"; or, for the layers where the teacher has experts, "mean_expert",
        "sum_expert" or "top_expert" as well.
      soft: The share of the teacher's probabilities in the loss. The paper uses 0.25.
      temperature: T, by which both models' logits are divided in the teacher's part.
      teacher_capacity: "evaluation", the capacity with which `eval` measures the teacher, or
        "unlimited", with which no token of the teacher is dropped (except with one-hot
        products, see InferenceCapacity).
      cache: The folder of the teacher's probabilities (`--cache_teacher`); None for none.
      cache_top_k: The number of tokens whose probabilities it keeps (`--teacher_top_k`).
    """
    return dict(
        teacher=teacher,
        init=init,
        soft=soft,
        temperature=temperature,
        teacher_capacity=teacher_capacity,
        cache=cache,
        cache_top_k=cache_top_k,
    )


def read(train_steps: int) -> DistillationSettings:
    """Reads the settings from the parsed configuration.

    Args:
      train_steps: The number of steps of the run, which schedules may depend on.

    Raises:
      UserError: If no teacher is bound, or a value is out of its range.
    """
    values = distillation()
    if values["teacher"] is None:
        raise UserError("The student has no teacher: pass --teacher=DIR or a checkpoint in it.")
    for name in ("soft", "temperature"):
        values[name] = bound_settings.make_schedule(values[name], train_steps)
    return DistillationSettings(**values)
