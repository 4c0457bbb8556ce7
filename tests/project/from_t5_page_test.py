"""Every line of docs/from_t5.md: the new one works, and T5's gin files have their effect."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mtf_switch.cli import flags, main, t5_flags
from mtf_switch.config import bound_settings, gin_config
from mtf_switch.errors import UserError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "from_t5.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    set(re.findall(r"`((?:train|finetune|eval|predict|score|convert) --[^`]*)`", PAGE))
)
FILES = sorted(set(re.findall(r"--gin_file=([\w./]+\.gin)", PAGE)))
RUN = ["models/t5_base.gin", "runs/c4.gin"]


def parse(command: str):
    return main.make_parser().parse_args(shlex.split(command))


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 15
    assert {"dataset.gin", "beam_search.gin", "perplexity_eval.gin"} <= set(FILES)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_new_line_has_flags_and_gin_files_that_exist(command: str) -> None:
    options = parse(command)
    if options.command != "convert":
        t5_flags.check_modes(options)
        model = [] if options.command == "train" else RUN
        gin_config.parse([*model, *options.gin_file], flags.gin_bindings(options))


def read_settings(*files: str, params: tuple[str, ...] = ()):
    gin_config.parse([*RUN, *files], params)
    return bound_settings.read_settings()


def test_t5s_gin_files_have_their_effect() -> None:
    # The values are those of T5's files.
    assert read_settings("dataset.gin").task == "glue_v002_proportional"
    task = read_settings("dataset.gin", params=("MIXTURE_NAME = 'glue_cola_v002'",)).task
    assert task == "glue_cola_v002"
    lengths = read_settings("sequence_lengths/squad_v010_allanswers.gin").sequence_length
    assert lengths == {"inputs": 512, "targets": 97}
    rate = read_settings("learning_rate_schedules/constant_0_001.gin").learning_rate_schedule
    assert float(rate(step=77)) == pytest.approx(0.001)  # float32
    read_settings("learning_rate_schedules/rsqrt_no_ramp_down.gin")
    gin_config.parse([*RUN, "beam_search.gin"], [])
    assert gin_config.find_value("Bitransformer.decode.beam_size") == 4
    assert gin_config.find_value("Bitransformer.decode.alpha") == 0.6


def test_perplexity_eval_selects_perplexity_and_checkpoints() -> None:
    options = parse("eval --model_dir=D --gin_file=perplexity_eval.gin")
    t5_flags.check_modes(options)
    assert (options.perplexity, options.checkpoint_steps) == (True, "all")
    options = parse(
        "eval --model_dir=D --gin_file=eval.gin --gin_param='eval_checkpoint_step = [3, 6]'"
    )
    t5_flags.check_modes(options)
    assert (options.perplexity, options.checkpoint_steps) == (False, "3,6")
    options = parse(
        "eval --model_dir=D --gin_file=perplexity_eval.gin --checkpoint_steps=latest"
    )
    t5_flags.check_modes(options)
    assert options.checkpoint_steps == "latest"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --model_dir=D --gin_file=eval.gin", "mode 'eval'. Here that is the command eval"),
        ("eval --model_dir=D --gin_file=infer.gin", "the command predict: run_switch.py predict"),
        ("predict --model_dir=D --input_file=F --output_file=O --gin_file=infer.gin", "predict"),
        ("score --model_dir=D --input_file=F --target_file=T --output_file=O "
         "--gin_file=score_from_file.gin", "command score: run_switch.py score --model_dir=D"),
        ("eval --model_dir=D --gin_file=score_from_task.gin", "--perplexity"),
    ],
)  # fmt: skip
def test_a_gin_file_of_another_mode_is_refused_with_its_command(
    command: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        t5_flags.check_modes(parse(command))
    assert message in str(caught.value)


@pytest.mark.parametrize("flag", t5_flags.INSTEAD)
def test_a_flag_that_does_not_carry_over_is_refused_with_its_replacement(
    flag: str, capsys
) -> None:
    with pytest.raises(SystemExit):
        main.main(["eval", "--model_dir=D", f"{flag}=x"])
    assert f"{flag} is a flag of t5_mesh_transformer. {t5_flags.INSTEAD[flag]}" in (
        capsys.readouterr().err
    )


def test_t5s_flags_of_data(tmp_path: Path) -> None:
    options = parse(
        f"eval --model_dir=D --t5_tfds_data_dir={tmp_path} --additional_task_cache_dirs=a,b"
    )
    assert set(flags.gin_bindings(options)) == {
        f"tfds_data.data_dir = '{tmp_path}'",
        "task_cache.folders = ['a', 'b']",
    }


def test_gin_files_are_found_below_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "mine.gin").write_text("num_layers = 3\n")
    options = parse(f"eval --model_dir=D --gin_location_prefix={tmp_path} --gin_file=mine.gin")
    t5_flags.check_prefixes(options)
    gin_config.parse([*RUN, "mine.gin"], [])
    assert gin_config.find_value("%num_layers") == 3
    t5_flags.check_prefixes(parse("eval --model_dir=D"))
    with pytest.raises(UserError, match=r"no gin file 'mine.gin'"):
        gin_config.parse([*RUN, "mine.gin"], [])
    with pytest.raises(UserError, match="--gin_location_prefix=/no: there is no such folder"):
        t5_flags.check_prefixes(parse("eval --model_dir=D --gin_location_prefix=/no"))
