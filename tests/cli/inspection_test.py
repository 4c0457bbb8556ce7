"""`--print_config` of all commands, and `train --dry_run`."""

from __future__ import annotations

import re

import pytest
from tiny_run import BATCH, INPUTS, TARGETS, contents, variables

from mtf_switch.config import gin_config
from mtf_switch.programs import tpu_compiler
from mtf_switch.runs import dry_run
from mtf_switch.runs.run import Run


def read_lines(text: str) -> dict[str, str]:
    """Binding -> the comment after it."""
    lines = [line for line in text.splitlines() if "  # " in line]
    return {line.split("  # ")[0].strip(): line.split("  # ")[1] for line in lines}


def test_each_value_has_its_source(tiny, tmp_path) -> None:
    outcome = tiny.train(
        tmp_path / "new",
        *("--print_config", "--steps=7", "--gin_param=ExpertCapacity.min_expert_capacity = 3"),
        params={"num_experts": "6", "utils.run.train_steps": "5"},
    )
    assert outcome.code == 0, outcome.err
    lines = read_lines(outcome.out)
    assert lines["run.train_steps = 7"] == "--steps, instead of 5 of --gin_param"
    assert lines["num_experts = 6"] == "--gin_param"
    assert lines["SwitchFFN.num_experts = %num_experts"] == f"6; {tiny.gin_file}"
    assert lines["MIXTURE_NAME = 'text_files'"] == "--corpus"
    assert lines[f"text_files.files = '{tiny.corpus}'"] == "--corpus"
    assert lines["run.skip_seen_data = True"] == "gin/defaults.gin"
    assert lines["d_model = 16"] == (
        f"{tiny.gin_file}, instead of 768 of t5/models/gin/models/bi_bert_base.gin"
    )
    # A spelling with a module is the same parameter.
    assert lines["ExpertCapacity.min_expert_capacity = 3"] == "--gin_param"
    assert "# SwitchFFN.dispatch = 'auto'" in outcome.out.split("# Not bound")[1]
    assert "# SwitchRouter.exploration = @Exploration()" in outcome.out.split("# Not bound")[1]
    assert "min_expert_capacity" not in outcome.out.split("# Not bound")[1]
    assert not (tmp_path / "new").exists()
    # The output is a gin file with the same configuration.
    text = gin_config.to_text()
    (tmp_path / "printed.gin").write_text(outcome.out)
    gin_config.parse([str(tmp_path / "printed.gin")], [])
    assert gin_config.to_text() == text


def test_a_file_that_binds_before_it_includes_is_read_in_gins_order(tiny, tmp_path) -> None:
    (tmp_path / "inner.gin").write_text("d_ff = 48\n")
    (tmp_path / "outer.gin").write_text(f"d_ff = 40\ninclude '{tmp_path}/inner.gin'\n")
    outcome = tiny.train(
        tmp_path / "new", "--print_config", "--steps=7", f"--gin_file={tmp_path}/outer.gin"
    )
    assert read_lines(outcome.out)["d_ff = 48"] == (
        f"{tmp_path}/inner.gin, instead of 40 of {tmp_path}/outer.gin"
    )


def test_a_dry_run_measures_and_writes_nothing(tiny, trained) -> None:
    before = contents(trained)
    outcome = tiny.train(trained, "--dry_run", "--steps=10")
    assert outcome.code == 0, outcome.err
    assert contents(trained) == before
    assert "Vocabulary  300 pieces and 100 sentinels (text_files.vocab_size)" in outcome.err
    assert f"Context     {INPUTS} tokens of inputs, {TARGETS} of targets" in outcome.err
    assert f"Cache       {tiny.folder}/cache/text_files-" in outcome.err
    assert f"{trained} (at step 6; the dry run writes nothing there)" in outcome.out
    assert f"inputs [{BATCH}, {INPUTS}], targets [{BATCH}, {TARGETS}]" in outcome.out
    # The checkpoint's variables without the optimizer's slots and the step.
    trained_sizes = [
        value.size
        for name, value in variables(trained, 6).items()
        if "slot" not in name and name != "global_step"
    ]
    assert f"parameters        {sum(trained_sizes):,} (" in outcome.out
    seconds, speed = re.search(r"step   ([\d.]+) s, ([\d,]+) tokens/s", outcome.out).groups()
    tokens = BATCH * (INPUTS + TARGETS)
    # The seconds are rounded to 0.001.
    low, high = tokens / (float(seconds) + 5e-4), tokens / max(float(seconds) - 5e-4, 1e-9)
    assert low - 1 <= float(speed.replace(",", "")) <= high + 1
    assert "(median of 5 steps of the Estimator)" in outcome.out
    assert "for the 4 steps up to step 10" in outcome.out
    assert re.search(
        r"encoder/block_\*/layer_\*/SwitchFFN/wi/kernel +1  \[4, 16, 32\]", outcome.out
    )


def test_a_model_that_does_not_fit_makes_no_step(tiny) -> None:
    settings, vocabulary = tiny.parse()
    found = dry_run.DryRun(
        run=Run(settings, vocabulary, "new"),
        runtime="the Estimator",
        start=0,
        features={"inputs": [BATCH, INPUTS]},
        variables=[("block_000/w", [2, 3], "float32"), ("block_001/w", [2, 3], "float32")],
        trained_bytes=2**30,
        kept_bytes=3 * 2**30,
        step_seconds=None,
        peak_bytes=0,
    )
    text = dry_run.format_text(found)
    assert "more than 4.0 GiB for variables and gradients" in text
    assert "the model does not fit, so no step was made" in text
    assert "parameters        12 (1.000 GiB)" in text
    assert "tokens/s" not in text


@pytest.fixture
def lines(tmp_path) -> list[str]:
    """The flags of `predict` for a file of one line."""
    (tmp_path / "in.txt").write_text("ba do\n")
    return [f"--input_file={tmp_path}/in.txt", f"--output_file={tmp_path}/out.txt"]


@pytest.mark.parametrize("command", ["eval", "predict", "score", "experts", "superglue"])
def test_commands_on_a_trained_model_print_their_configuration_and_write_nothing(
    command, tiny, trained, tmp_path, lines
) -> None:
    flags = {
        "predict": [*lines, "--beams=3"],
        "score": [*lines, f"--target_file={tmp_path}/in.txt"],
        "superglue": [f"--output_dir={tmp_path}/out.txt"],
    }.get(command, [])
    before = contents(trained)
    asked = (command, f"--model_dir={trained}", *flags, "--gin_param=num_experts = 6")
    outcome = tiny.command(*asked, "--print_config")
    assert outcome.code == 0, outcome.err
    printed = read_lines(outcome.out)
    saved = f"{trained}/config.gin"
    assert printed["num_experts = 6"] == f"--gin_param, instead of 4 of {saved}"
    assert printed["MIXTURE_NAME = 'text_files'"] == saved
    if command == "predict":
        assert printed["Bitransformer.decode.beam_size = 3"] == "--beams"
    assert contents(trained) == before
    assert not (tmp_path / "out.txt").exists()
    refused = tiny.command(*asked, "--dry_run")
    assert refused.code == 1
    assert f"{command} has no --dry_run: " in refused.err


@pytest.mark.parametrize("command", ["plan", "compile"])
def test_plan_prints_its_configuration(command, tiny, monkeypatch) -> None:
    monkeypatch.setattr(tpu_compiler, "find_library", lambda: None)
    flags = ["--gin_file=models/switch_tiny.gin", "--batch_tokens=65536", "--print_config"]
    outcome = tiny.command(command, *flags, "--gin_file=layouts/expert_8.gin")
    assert outcome.code == 0, outcome.err
    assert read_lines(outcome.out)["run.batch_size = ('tokens_per_batch', 65536)"] == (
        "--batch_tokens, instead of ('tokens_per_batch', 1048576) of gin/runs/c4.gin"
    )
    refused = tiny.command(command, *flags, "--compare", "layouts/expert_8.gin")
    assert refused.code == 1
    assert "prints the configuration with one layout" in refused.err


def test_a_wrong_value_is_refused_before_anything_is_printed(tiny, trained) -> None:
    value = "--gin_param=utils.run.batch_size = 0"
    outcome = tiny.command("eval", f"--model_dir={trained}", value, "--print_config")
    assert outcome.code == 1
    assert outcome.out == ""
    assert "batch_size" in outcome.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--print_config", "--dry_run"], "Give only one of --print_config and --dry_run."),
        (
            ["--dry_run", "--tpu=x"],
            "--dry_run measures this machine, not a TPU. The command pl",
        ),
    ],
)
def test_flags_that_exclude_each_other(flags, message, tiny, tmp_path) -> None:
    outcome = tiny.train(tmp_path / "new", *flags)
    assert outcome.code == 1
    assert message in outcome.err
