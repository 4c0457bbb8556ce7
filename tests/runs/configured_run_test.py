"""Objects of a run that are made once, from the gin configuration."""

from __future__ import annotations

import os
from unittest import mock

import pytest
from tiny_run import TinyRun

from mtf_switch.config import gin_config
from mtf_switch.errors import UserError
from mtf_switch.runs import configured_run
from mtf_switch.runs.run import Run


@pytest.fixture
def parsed(tiny: TinyRun):
    """(settings, vocabulary) of the tiny run, whose configuration is parsed."""
    with mock.patch.dict(os.environ, tiny.environment):
        yield tiny.parse()


def test_a_run_has_the_settings_and_the_vocabulary_of_the_configuration(parsed) -> None:
    settings, vocabulary = parsed
    run = configured_run.make_run("some/folder")
    assert (run.settings.task, run.settings.batch_size) == ("text_files", settings.batch_size)
    assert run.settings.sequence_length == settings.sequence_length
    assert run.model_dir == "some/folder"
    assert not run.on_tpu
    for feature, part in zip(("inputs", "targets"), vocabulary):
        assert run.feature_vocabulary(feature).vocab_size == part.vocab_size


def test_another_task_can_take_the_place_of_the_configured_one(parsed) -> None:
    gin_config.bind("MIXTURE_NAME/macro.value", "no_such_task")
    assert configured_run.make_run("folder", task="text_files").settings.task == "text_files"
    with pytest.raises(UserError, match="no task or mixture 'no_such_task'"):
        configured_run.make_run("folder")


def test_the_inputs_and_the_targets_may_have_vocabularies_of_their_own(parsed) -> None:
    settings, _ = parsed
    run = Run(settings, ("of inputs", "of targets"), "folder", cluster="a TPU")
    assert run.feature_vocabulary("inputs") == "of inputs"
    assert run.feature_vocabulary("targets") == "of targets"
    assert run.on_tpu
    assert Run(settings, "of both", "folder").feature_vocabulary("targets") == "of both"
