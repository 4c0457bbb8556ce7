"""The flags that look at a run without doing it: `--print_config` and `--dry_run`."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags, own_data_flags
from mtf_switch.config import bound_settings, gin_config, value_sources
from mtf_switch.errors import UserError

# Bindings that other flags make -> the flag.
_OTHER_BINDINGS = {
    "utils.run.train_steps": "--steps",
    "run_config.seed.value": "--seed",
    "devices.value": "--devices",
    "run_config.eval_every_steps.value": "--eval_every",
    "run_config.keep_best.value": "--keep_best",
    "text_files.files": "--corpus",
    "utils.run.init_checkpoint": "--init_checkpoint",
    "distillation.teacher": "--teacher",
    "distillation.init": "--init",
    "distillation.cache": "--cache_teacher",
    "distillation.cache_top_k": "--teacher_top_k",
    "task_cache.folders": "--additional_task_cache_dirs",
    "utils.run.batch_size": "--batch_tokens",
    "Bitransformer.decode.beam_size": "--beams",
    "Bitransformer.decode.temperature": "--temperature",
    "Bitransformer.decode.sampling_keep_top_k": "--top_k",
    "Bitransformer.decode.max_decode_length": "--max_length",
}
# Command -> what to do instead of its --dry_run.
_INSTEAD_OF_DRY_RUN = {
    "eval": "eval --eval_batches=2 evaluates two batches, and says what they are and how long "
    "they took",
    "predict": "predict an --input_file of a few lines: it says how long they took",
    "score": "score an --input_file of a few lines: it says how long they took",
    "experts": "experts --tokens=2000 --checkpoint_steps=latest --trace_only, with an "
    "--output_dir of its own, takes the shortest time",
    "prune": "prune --tokens=2000, with an --output_dir of its own, takes the shortest time",
    "export": "export --batch_sizes 1, with an --export_dir of its own, is the shortest",
    "superglue": "eval --eval_batches=2 decodes two batches of each task",
    "plan": "plan itself makes no step: it counts memory and time of one",
    "compile": "compile itself makes no step: it asks the compiler for the memory of one",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Adds `--print_config` and `--dry_run`, which train nothing."""
    group = parser.add_argument_group(
        "look before you train; nothing is written to --model_dir"
    )
    group.add_argument(
        "--print_config",
        action="store_true",
        help="print every value of the configuration and where it comes from, and exit",
    )
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="do everything up to training, measure a few steps, and exit: shapes, parameters, "
        "memory, time",
    )
    flags.add_check(parser, _check)


def add_print_config(parser: argparse.ArgumentParser, command: str) -> None:
    """Adds `--print_config` to a command that does not train, and refuses `--dry_run`."""
    group = parser.add_argument_group("look before you run; nothing is written")
    group.add_argument(
        "--print_config",
        action="store_true",
        help="print every value of the configuration and where it comes from, and exit",
    )
    group.add_argument("--dry_run", action="store_true", help=argparse.SUPPRESS)

    def check(options: argparse.Namespace) -> None:
        if options.dry_run:
            raise UserError(
                f"{command} has no --dry_run: {_INSTEAD_OF_DRY_RUN[command]}. train --dry_run "
                "measures parameters, memory and the time of a training step."
            )

    flags.add_check(parser, check)


def print_if_asked(options: argparse.Namespace) -> bool:
    """Checks and prints the parsed configuration if --print_config is given.

    Returns:
      Whether it is given, so that the command ends.
    """
    if options.print_config:
        bound_settings.read_settings()  # checks the values
        print(format_config(options))
    return options.print_config


def _check(options: argparse.Namespace) -> None:
    if options.print_config and options.dry_run:
        raise UserError("Give only one of --print_config and --dry_run.")
    if options.dry_run and options.tpu:
        raise UserError(
            "--dry_run measures this machine, not a TPU. The command plan computes memory and "
            "time for a TPU."
        )


def is_given(options: argparse.Namespace) -> bool:
    """Whether the command only looks at a run, and trains nothing."""
    return options.print_config or options.dry_run


def format_config(options: argparse.Namespace) -> str:
    """Formats the parsed configuration, with the source of each value."""
    names = {name: f"--{flag}" for flag, name in flags.BINDINGS.items()} | _OTHER_BINDINGS
    names |= own_data_flags.FLAGS if hasattr(options, "train_file") else {}
    for flag in ("corpus", "train_file"):
        if getattr(options, flag, None) is not None:
            names["MIXTURE_NAME"] = f"--{flag}"
    return value_sources.format_config(gin_config.to_text(), options.gin_param, names)
