"""A plan counts the vocabulary of the model's task, and never downloads it."""

from __future__ import annotations

import pytest

from mtf_switch.errors import UserError
from mtf_switch.planning import planned_vocabulary, planner


@pytest.mark.parametrize(
    ("files", "params", "task", "size"),
    [
        (["models/t5_base.gin"], [], "c4_v220_span_corruption", 32100),
        (["models/mt5_base.gin"], [], "mc4", 250100),
        (["models/mswitch_base.gin"], [], "mc4", 250100),
        (["models/t5_base.gin", "runs/mc4.gin"], [], "mc4", 250100),
        (["models/mt5_base.gin"], ["MIXTURE_NAME = 'xsum'"], "xsum", 32100),
        (["models/t5_base.gin"], ["MIXTURE_NAME = 'embedded_text'"], "embedded_text", 4196),
    ],
)
def test_the_vocabulary_is_that_of_the_models_task(files, params, task, size):
    settings = planner.parse_settings([*files, "layouts/expert_8.gin"], params)
    chosen = planned_vocabulary.choose_task(settings.task, planner.BASE_TASK)
    assert chosen == task
    vocabulary = planned_vocabulary.find_vocabulary(chosen)
    assert (vocabulary.size, vocabulary.origin) == (size, f"that of the task {task}")


def test_a_size_of_the_user_wins_and_is_printed_as_such():
    settings = planner.parse_settings(["models/mt5_base.gin", "layouts/expert_8.gin"], [])
    vocabulary = planner._choose_vocabulary(settings, 500)
    assert (vocabulary.size, vocabulary.origin) == (500, "--vocab_size")


def test_an_unknown_task_has_no_vocabulary():
    with pytest.raises(UserError, match="There is no task or mixture 'mc5'"):
        planned_vocabulary.find_vocabulary("mc5")
