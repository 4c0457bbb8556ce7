"""Which results of `experts` a command replaces or reads, and what it refuses before its work."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from unittest import mock

import expert_traces
import pytest
from tiny_run import EXPERTS, SWITCH_LAYERS, TinyRun, contents, copy_of

from mtf_switch.analysis.example_batches import Examples
from mtf_switch.analysis.traced_model import TracedModel

ENCODER = SWITCH_LAYERS[1]


@pytest.fixture(scope="module")
def folder(tiny: TinyRun, trained: Path, tmp_path_factory) -> Path:
    """The results of the command for two checkpoints."""
    return expert_traces.make(tiny, trained, tmp_path_factory.mktemp("experts"))


def test_a_trace_is_replaced_only_if_it_is_of_the_same_settings(tiny, trained, folder):
    outcome = tiny.command(
        "experts", *expert_traces.arguments(trained, folder), "--tokens=1900"
    )
    assert outcome.code == 1
    assert (
        f"has results of other settings: tokens {expert_traces.TOKENS}, importance_tokens 700."
        in outcome.err
    )
    outcome = tiny.command(
        "experts", *expert_traces.arguments(trained, folder), "--from_trace", "--task=x"
    )
    assert "has results of other settings: task text_files. Omit these flags" in outcome.err
    file = folder / "trace" / "trace.json"
    before = file.read_text()
    file.write_text(before[:100])
    assert (
        "trace.json cannot be read"
        in tiny.command("experts", *expert_traces.arguments(trained, folder)).err
    )
    file.write_text(json.dumps({**json.loads(before), "format": 0}))
    assert (
        "its format is 0"
        in tiny.command("experts", *expert_traces.arguments(trained, folder)).err
    )
    file.write_text(before)


def test_an_analysis_of_a_trace_keeps_the_importance_that_was_measured(tiny, trained, folder):
    before = json.loads((folder / "experts.json").read_text())["importance"]
    assert {(row["layer"], row["expert"]) for row in before} == {
        (layer, expert) for layer in SWITCH_LAYERS for expert in range(EXPERTS)
    }
    command = ("experts", *expert_traces.arguments(trained, folder), "--from_trace")
    refused = tiny.command(*command, "--importance_tokens=900")
    assert "has results of other settings: importance_tokens 700. Omit" in refused.err
    refused = tiny.command("experts", *expert_traces.arguments(trained, folder))
    assert "has results of other settings: importance_tokens 700. Name" in refused.err
    outcome = tiny.command(*command, f"--compare_with={folder}")
    assert outcome.code == 0, outcome.err
    assert json.loads((folder / "experts.json").read_text())["importance"] == before
    assert "## Importance" in (folder / "experts.md").read_text()
    assert (folder / "importance.png").exists()


def test_a_trace_of_another_model_is_refused(tiny, trained, folder, tmp_path):
    other = copy_of(trained, tmp_path / "other")
    replace = ["experts", *expert_traces.arguments(other, folder), "--importance_tokens=700"]
    # The weights of step 3 are the same.
    index = other / "model.ckpt-6.index"
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    for flags, fix in ((["--from_trace"], "omit --from_trace"), ([], "pass --overwrite to")):
        refused = tiny.command(*replace, *flags)
        assert refused.code == 1
        reason = f"was made from {trained}, with other weights at step 6 than {other} has. Name"
        assert f"is of another model: it {reason}" in refused.err
        assert fix in refused.err
    for path in other.glob("model.ckpt-*"):
        path.unlink()
    refused = tiny.command(*replace, "--from_trace")
    assert f"is of another model: it was made from {trained}, and {other} has" in refused.err


@pytest.mark.parametrize(
    "binding", ["ExpertCapacity.capacity_factor_eval = 1.0", "utils.run.batch_size = 4"]
)
def test_gin_bindings_are_settings_too(tiny, trained, folder, binding):
    command = ("experts", *expert_traces.arguments(trained, folder), f"--gin_param={binding}")
    for flag, fix in (("--importance_tokens=700", "Name another"), ("--from_trace", "Omit")):
        refused = tiny.command(*command, flag)
        assert refused.code == 1
        assert f"has results of other settings: changed_bindings (none). {fix}" in refused.err


def test_a_call_that_fails_leaves_the_trace_as_it_was(tiny, trained, folder):
    before = contents(folder)
    outcome = tiny.command(
        "experts",
        *expert_traces.arguments(trained, folder),
        *("--overwrite", "--no_importance", "--gin_param=num_experts = 8"),
    )
    assert "model.ckpt-3 is of another model: " in outcome.err
    assert contents(folder) == before
    assert sorted(path.name for path in folder.glob("trace*")) == ["trace"]


def count_restores():
    """Counts the checkpoints that are restored."""
    original = TracedModel.restore
    return mock.patch.object(TracedModel, "restore", autospec=True, side_effect=original)


def test_a_trace_that_cannot_be_analysed_ends_at_the_first_checkpoint(tiny, trained, tmp_path):
    with count_restores() as restore:
        outcome = tiny.command(
            "experts", *expert_traces.arguments(trained, tmp_path), "--tokens=100"
        )
    assert f"The trace of {ENCODER} has " in outcome.err
    assert "with 4 experts a null model and an interval need at least 80" in outcome.err
    assert restore.call_count == 1
    assert not any(tmp_path.iterdir())


def test_other_examples_at_each_reading_are_found_at_the_second_checkpoint(
    tiny, trained, tmp_path
):
    flags = ("--tokens=100", "--trace_only", "--checkpoint_steps=0,3,6")
    batches, turns = Examples.batches, itertools.count()
    with (
        count_restores() as restore,
        mock.patch.object(
            Examples, "batches", lambda self: itertools.islice(batches(self), next(turns), None)
        ),
    ):
        outcome = tiny.command("experts", *expert_traces.arguments(trained, tmp_path), *flags)
    assert "The examples of text_files are others at each reading" in outcome.err
    assert restore.call_count == 2
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--importance_tokens=10",), "would be measured on 8 examples, but an interval needs"),
        (("--split=validation", "--compare_with={0}"), "it was made with --split=train. Pass"),
        (("--tokens=9000", "--compare_with={0}"), "it was made with --tokens=1800. Pass the"),
    ],
)
def test_what_needs_no_model_is_refused_before_it_runs(
    tiny, trained, folder, tmp_path, flags, message
):
    with mock.patch.object(TracedModel, "__init__", side_effect=AssertionError):
        outcome = tiny.command(
            "experts",
            *expert_traces.arguments(trained, tmp_path),
            *(flag.format(folder) for flag in flags),
        )
    assert outcome.code == 1
    assert message in outcome.err
