"""The tasks that a run can name, and the message for a vocabulary that does not exist."""

from __future__ import annotations

import pytest
import seqio
from tiny_run import TinyRun

from mtf_switch.errors import UserError
from mtf_switch.runs import registered_tasks


def test_an_unknown_task_is_refused_with_the_nearest_names(tiny: TinyRun) -> None:
    tiny.parse()
    with pytest.raises(
        UserError,
        match=r"no task or mixture 'glue_colla_v002'\. The nearest names are: glue_cola_v002",
    ):
        registered_tasks.prepare_task("glue_colla_v002")


def test_a_vocabulary_that_is_not_there_is_named_with_its_task(tiny: TinyRun) -> None:
    tiny.parse()
    name = "mtf_switch_test_no_vocabulary"
    feature = seqio.Feature(seqio.SentencePieceVocabulary("/nowhere/sentencepiece.model"))
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"]),
        preprocessors=[],
        output_features={"inputs": feature, "targets": feature},
    )
    try:
        with pytest.raises(UserError) as caught:
            registered_tasks.prepare_task(name)
    finally:
        seqio.TaskRegistry.remove(name)
    message = str(caught.value)
    assert (
        f"vocabulary of task {name!r} cannot be read from /nowhere/sentencepiece.model"
        in message
    )
    assert "Pass a copy that this machine can reach with --vocabulary" in message
    assert "\n" not in message
