"""Plans a student with its teacher: the objective of `distil` in the graph of `plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtf_switch.planning.planner import MakeObjective


def capture(file: str) -> MakeObjective:
    """Reads the model of a teacher, and returns what makes the objective of its student.

    It parses gin files, so it is called before the student's are parsed. Imports TensorFlow.

    Args:
      file: The gin file of the teacher, such as models/switch_base_64.gin.
    """
    from mtf_switch.distillation.distillation import Distillation
    from mtf_switch.distillation.settings import DistillationSettings
    from mtf_switch.distillation.teacher import Teacher
    from mtf_switch.planning import planner
    from mtf_switch.runs.runtime import Target

    planner.parse_files([file])
    teacher = Teacher.capture()

    def make_objective(settings, vocabulary):
        model = teacher.build(settings, vocabulary, Target(on_tpu=True), drops_tokens=True)
        return Distillation(teacher, model, DistillationSettings(teacher=file))

    return make_objective
