"""Models, tasks and checkpoints that `experts` cannot analyse are refused in one sentence."""

from __future__ import annotations

import dataclasses

import pytest
import seqio

from mtf_switch.analysis.traced_model import open_model
from mtf_switch.errors import UserError
from mtf_switch.runs.run import Run


def test_a_dense_model_is_refused(tiny, trained):
    outcome = tiny.command(
        "experts",
        f"--model_dir={trained}",
        "--overwrite",
        *(
            f"--gin_param={stack}/transformer.make_layer_stack.layers = "
            "[@transformer_layers.SelfAttention]"
            for stack in ("encoder", "decoder")
        ),
    )
    assert "is dense: it has no Switch layer" in outcome.err


def test_checkpoints_of_other_layers_are_refused(tiny, trained, tmp_path):
    """The model has more experts than the checkpoints."""
    more = "--gin_param=num_experts = 8"
    outcome = tiny.command(
        "experts",
        f"--model_dir={trained}",
        f"--output_dir={tmp_path}",
        "--trace_only",
        "--tokens=200",
        more,
    )
    assert outcome.code == 1
    assert "model.ckpt-0 is of another model: " in outcome.err
    assert not list(tmp_path.rglob("trace.json"))


def test_a_task_of_another_vocabulary_is_refused(tiny, trained, tmp_path):
    feature = seqio.Feature(seqio.PassThroughVocabulary(77, eos_id=1), add_eos=False)
    seqio.TaskRegistry.add(
        "task_of_numbers",
        source=seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"]),
        preprocessors=[],
        output_features={"inputs": feature, "targets": feature},
    )
    try:
        outcome = tiny.command(
            "experts",
            f"--model_dir={trained}",
            f"--output_dir={tmp_path}",
            "--task=task_of_numbers",
        )
    finally:
        seqio.TaskRegistry.remove("task_of_numbers")
    assert outcome.code == 1
    assert (
        "Task 'task_of_numbers' has no SentencePiece model, but the model reads" in outcome.err
    )


def test_a_model_that_changes_its_features_is_refused(tiny, trained):
    settings, vocabulary = tiny.load(trained)
    run = Run(dataclasses.replace(settings, model_type="delimited_lm"), vocabulary, "runs/x")
    with pytest.raises(UserError, match="is of the type 'delimited_lm', but only models of"):
        open_model(run, {}).__enter__()
