"""Commands run on a converted model, and flags of `convert` that do not go together."""

from __future__ import annotations

import json
from pathlib import Path

import conversions
import pytest
import random_checkpoints
from random_checkpoints import assert_bit_equal, read_tensors
from tiny_run import TinyRun, copy_of

from mtf_switch.config import bound_settings, gin_config, saved_config


def convert_by_command(tiny: TinyRun, source_format, target_format, source, target, *flags):
    outcome = tiny.command(
        "convert", f"--from={source_format}", f"--to={target_format}", source, target, *flags
    )
    assert outcome.code == 0, outcome.err
    return outcome


def run_flags(tiny: TinyRun) -> list[str]:
    """The flags of `convert` that give a converted model a run on the tiny corpus."""
    params = [
        "MIXTURE_NAME = 'text_files'",
        f"text_files.files = {str(tiny.corpus)!r}",
        "text_files.vocab_size = 300",
        "utils.run.sequence_length = {'inputs': 32, 'targets': 16}",
        "mesh_train_dataset_fn.pack = False",
        "ExpertCapacity.group_size = 64",
    ]
    return [f"--gin_param={param}" for param in params]


def test_a_trained_model_is_exported_and_comes_back(tiny, trained, tmp_path):
    convert_by_command(tiny, "mtf", "hf", trained, tmp_path / "hf")
    back = convert_by_command(
        tiny, "hf", "mtf", tmp_path / "hf", tmp_path / "mtf", *run_flags(tiny)
    )
    assert "parameters    19,824, float32\nstep          6\n" in back.out
    weights = {n: a for n, a in read_tensors("mtf", trained).items() if "_slot_" not in n}
    returned = read_tensors("mtf", tmp_path / "mtf")
    # The names agree as well: the blocks are grouped in the same way.
    assert_bit_equal(weights, returned)


def test_a_model_whose_tokens_visit_two_experts_keeps_its_router_or_is_refused(
    tiny, trained, tmp_path
):
    top_2 = copy_of(trained, tmp_path / "top_2")
    config = top_2 / "config.gin"
    config.write_text(config.read_text() + "SwitchFFN.router = @TopKRouter()\n")
    for target_format in ("hf", "t5x"):
        to = tmp_path / target_format
        outcome = tiny.command("convert", "--from=mtf", f"--to={target_format}", top_2, to)
        assert outcome.code == 1
        assert "a token visits 2 experts. Of the three formats, only Mesh" in outcome.err
        assert not to.exists()
    for name, flags in {"own": [], "other_run": run_flags(tiny)}.items():
        files = [f"--gin_file={path}" for path in ["runs/converted.gin"] if flags]
        convert_by_command(tiny, "mtf", "mtf", top_2, tmp_path / name, *files, *flags)
        assert (
            "SwitchFFN.router = @TopKRouter()" in (tmp_path / name / "config.gin").read_text()
        )


@pytest.fixture(scope="module")
def model_dirs(tiny, tmp_path_factory) -> list[Path]:
    """A small random model_dir, and the same model converted to T5X and back."""
    folder = tmp_path_factory.mktemp("converted")
    one_block = random_checkpoints.make_architecture("s", "d", experts=2, vocab_size=512)
    random_checkpoints.write_checkpoint("t5x", folder / "start", one_block)
    flags = run_flags(tiny)
    convert_by_command(tiny, "t5x", "mtf", folder / "start", folder / "mtf", *flags)
    convert_by_command(tiny, "mtf", "t5x", folder / "mtf", folder / "t5x")
    convert_by_command(tiny, "t5x", "mtf", folder / "t5x", folder / "back", *flags)
    return [folder / "mtf", folder / "back"]


def test_eval_predict_score_and_train_run_on_it_with_no_further_flags(
    tiny, model_dirs, tmp_path
):
    results = []
    for folder in model_dirs:
        outcome = tiny.command("eval", f"--model_dir={folder}")
        assert outcome.code == 0, outcome.err
        results.append(json.loads((folder / "eval.json").read_text()))
    # The same weights and batches give the same sums in the same order.
    assert results[0] == results[1]
    model_dir = model_dirs[1]
    (tmp_path / "in.txt").write_text("ba do ki\nlu me\n")
    (tmp_path / "targets.txt").write_text("ba do\nlu\n")
    files = [f"--input_file={tmp_path / 'in.txt'}"]
    target_file = f"--target_file={tmp_path / 'targets.txt'}"
    for command, more in (("predict", []), ("score", [target_file])):
        output = tmp_path / f"{command}.txt"
        outcome = tiny.command(
            command, f"--model_dir={model_dir}", f"--output_file={output}", *files, *more
        )
        assert outcome.code == 0, outcome.err
        assert len(output.read_text().splitlines()) == 2
    # Training continues at the step of the checkpoint, with new optimizer state.
    outcome = tiny.command("train", f"--model_dir={model_dir}", "--steps=8")
    assert outcome.code == 0, outcome.err
    assert "is at step 8" in outcome.out
    assert any("_slot_" in name for name in read_tensors("mtf", model_dir))


def test_the_run_of_a_converted_model_is_that_of_its_gin_file(tmp_path):
    start = random_checkpoints.write_checkpoint(
        "hf", tmp_path / "start", random_checkpoints.SWITCH
    )
    conversions.convert("hf", "mtf", start, tmp_path / "mtf")
    saved_config.load(str(tmp_path / "mtf"))
    settings = bound_settings.read_settings()
    assert settings.task == "c4_v220_span_corruption"
    assert settings.batch_size == 8
    assert settings.learning_rate_schedule == 0.001
    # The written configuration equals the one that is read, because `train` compares the two.
    assert gin_config.to_text() == (tmp_path / "mtf" / "config.gin").read_text()
    # model.gin can be used like the files in gin/models/.
    gin_config.parse([str(tmp_path / "mtf" / "model.gin"), "runs/embedded.gin"], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--upcycle"], "--upcycle needs the number of experts: add --experts=8, for example."),
        (["--experts=4"], "--experts, --expert_every and --seed need --upcycle."),
        (
            ["--upcycle", "--experts=4"],
            "is for dense models, but this one already has 4 experts",
        ),
        (["--gin_param=d_ff = 3"], "--gin_file and --gin_param need --to=mtf, not --to=t5x."),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tiny, arguments, message, tmp_path):
    source = random_checkpoints.write_checkpoint(
        "hf", tmp_path / "hf", random_checkpoints.SWITCH
    )
    outcome = tiny.command(
        "convert", "--from=hf", "--to=t5x", source, tmp_path / "to", *arguments
    )
    assert outcome.code == 1
    assert message in outcome.err
    assert not (tmp_path / "to").exists()
