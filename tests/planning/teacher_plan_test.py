"""`plan --teacher` counts a student and its teacher."""

from __future__ import annotations

import json

from tiny_run import TinyRun

LAYOUT = ("--gin_file=layouts/expert_8.gin", "--vocab_size=1124", "--batch_tokens=65536")
STUDENT = ("--gin_file=models/t5_base_tiny.gin", *LAYOUT, "--json")
# The headers of models/t5_base_tiny.gin and models/switch_base_tiny.gin.
OF_STUDENT, OF_TEACHER = 305_152, 768_512


def plan(tiny: TinyRun, *arguments: str) -> dict:
    outcome = tiny.command("plan", *STUDENT, *arguments)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_a_plan_has_the_parameters_of_both_and_the_state_of_the_student(tiny: TinyRun) -> None:
    alone = plan(tiny)
    both = plan(tiny, "--teacher=models/switch_base_tiny.gin")
    assert alone["parameters"] == OF_STUDENT
    assert both["parameters"] == OF_STUDENT + OF_TEACHER
    assert both["parameters_by_group"]["experts"] > 0
    assert both["optimizer_slots"] == alone["optimizer_slots"]
    # Its all-to-alls are those of the forward pass alone.
    phases = {c["phase"] for c in both["collectives"] if c["kind"] == "all_to_all"}
    assert phases == {"forward"}


def test_a_teacher_that_is_not_there_is_refused(tiny: TinyRun) -> None:
    outcome = tiny.command("plan", *STUDENT, "--teacher=models/no.gin")
    assert outcome.code == 1
    assert "no gin file 'models/no.gin'" in outcome.err
