"""The flags that several commands share, and their gin bindings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from mtf_switch import network, value_rules, whole_file
from mtf_switch.cli import t5_flags
from mtf_switch.config import gin_files, given_bindings, saved_config
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import kept_vocabulary
from tasks import data_folder

# A function that checks the parsed flags, and raises a UserError.
Check = Callable[[argparse.Namespace], None]

# Flags that bind one gin parameter each.
BINDINGS = {
    "task": "MIXTURE_NAME",
    "data_dir": "tfds_data.data_dir",
    "vocabulary": "task_vocabulary.source",
}
# Texts whose vocabularies --vocabulary accepts by name.
_VOCABULARY_NAMES = ("embedded_text", "text_files", "multilingual")


def add_check(parser: argparse.ArgumentParser, check: Check) -> None:
    """Declares a check of the parsed flags. `main` runs it before the command.

    Checks find mistakes without TensorFlow, whose import takes many seconds.
    """
    parser.set_defaults(checks=[*(parser.get_default("checks") or ()), check])


def check_all(options: argparse.Namespace) -> None:
    """Runs the declared checks of the command, in order.

    Raises:
      UserError: For the first mistake.
    """
    for check in getattr(options, "checks", ()):
        check(options)


def add_model_dir(
    parser: argparse.ArgumentParser, meaning: str, is_trained: bool = False
) -> None:
    """Adds `--model_dir`.

    Args:
      parser: The parser of a command.
      meaning: The meaning of the folder, for the help text.
      is_trained: Whether the folder must already belong to a training run.
    """
    parser.add_argument("--model_dir", required=True, metavar="D", help=meaning)
    if is_trained:
        add_check(parser, _check_model_dir)


def _check_model_dir(options: argparse.Namespace) -> None:
    # TensorFlow finds no file at the address of a server that does not answer.
    network.check_address(options.model_dir, "Use a path on this machine.")
    saved_config.check_exists(options.model_dir)


def add_folder_check(
    parser: argparse.ArgumentParser, flag: str, may_be_address: bool = False
) -> None:
    """Refuses what cannot be a folder that a command writes, before its content is computed.

    Args:
      parser: The parser of a command.
      flag: The flag of the folder, without dashes.
      may_be_address: Whether it may be at an address, such as gs://bucket/new.
    """

    def check(options: argparse.Namespace) -> None:
        folder = getattr(options, flag)
        if folder is None:
            return
        if whole_file.is_address(folder) and not may_be_address:
            raise UserError(
                f"--{flag}={folder} is not on this machine, where {options.command} writes: "
                "name a folder of this machine, and copy it afterwards."
            )
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise UserError(f"--{flag}={folder} is a file: name a folder.")

    add_check(parser, check)


def add_gin(parser: argparse.ArgumentParser) -> None:
    """Adds `--gin_file` and `--gin_param`."""
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="gin file, from the current folder, gin/, or the gin folders of T5 and Mesh "
        "TensorFlow; repeatable, later files win",
    )
    parser.add_argument(
        "--gin_param",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="gin binding; repeatable, wins over files: --gin_param='num_experts = 16'",
    )
    t5_flags.add(parser)
    add_check(parser, t5_flags.check_prefixes)
    add_check(parser, _check_gin)
    add_check(parser, t5_flags.check_modules)
    add_check(parser, t5_flags.check_modes)


def _check_gin(options: argparse.Namespace) -> None:
    gin_files.check_files_exist(options.gin_file)
    given_bindings.read(options.gin_file, options.gin_param)


def add_training(parser: argparse.ArgumentParser) -> None:
    """Adds `--steps`, `--seed`, `--eval_every`, `--keep_best` and `--new_text`."""
    parser.add_argument("--steps", type=positive_integer, help="train up to this step")
    parser.add_argument(
        "--seed", type=int, help="seed of the data order, the initial weights and all noise"
    )
    parser.add_argument(
        "--eval_every",
        type=positive_integer,
        metavar="N",
        help="measure the validation loss every N steps (default: run_config.eval_every_steps)",
    )
    parser.add_argument(
        "--keep_best",
        action="store_true",
        help="keep the checkpoint with the lowest validation loss in the folder best/ of the "
        "model_dir, which predict and eval accept",
    )
    parser.add_argument(
        "--new_text",
        action="store_true",
        help="continue although the text of the run has changed since it started",
    )


def add_data(parser: argparse.ArgumentParser, makes_data_dir: bool = False) -> None:
    """Adds `--data_dir` and `--vocabulary`.

    Args:
      parser: The parser of a command.
      makes_data_dir: Whether the command creates the folder.
    """
    parser.add_argument(
        *("--data_dir", "--t5_tfds_data_dir"),
        metavar="D",
        help="folder of TFDS's data (default: ~/tensorflow_datasets); see the command prepare",
    )
    if not makes_data_dir:
        add_check(parser, _check_data_dir)
    add_vocabulary(parser)


def _check_data_dir(options: argparse.Namespace) -> None:
    if options.data_dir is not None and not whole_file.is_address(options.data_dir):
        data_folder.check_exists(os.path.expanduser(options.data_dir))


def add_vocabulary(parser: argparse.ArgumentParser) -> None:
    """Adds `--vocabulary`."""
    parser.add_argument(
        "--vocabulary",
        metavar="V",
        help=f"a SentencePiece model, or one of {', '.join(_VOCABULARY_NAMES)} (default: "
        "that which the model_dir or the checkpoint keeps; else the task's, mostly T5's)",
    )
    add_check(parser, _check_vocabulary)


def _check_vocabulary(options: argparse.Namespace) -> None:
    """Checks the file that --vocabulary names."""
    path = options.vocabulary
    if path is None or path in _VOCABULARY_NAMES or whole_file.is_address(path):
        return
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise UserError(
            f"There is no vocabulary {path}. --vocabulary is a SentencePiece model, "
            f"or one of {', '.join(_VOCABULARY_NAMES)}."
        )
    model_dir = getattr(options, "model_dir", None)
    kept = kept_vocabulary.find(model_dir) if model_dir else None
    if kept is not None:
        # --gin_param may set the sentinels, so they are compared when gin is parsed.
        asked = tuple(kept_vocabulary.read(path, own.sentinels) for own in kept)
        kept_vocabulary.check_same(
            kept, asked, f"--vocabulary={path}", kept_vocabulary.USE_THE_RUNS
        )


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Adds `--devices`."""
    parser.add_argument(
        "--devices",
        type=positive_integer,
        metavar="N",
        help="run on N devices of this machine as one mesh: its GPUs, or N parts of its "
        "processor; without a file of gin/layouts/, the batch and the experts are split",
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Adds `--devices` and the flags that name a TPU."""
    add_devices(parser)
    group = parser.add_argument_group("TPU, as in t5_mesh_transformer")
    group.add_argument(
        "--tpu", help="name or address of a Cloud TPU (default: run on this machine)"
    )
    group.add_argument("--gcp_project", help="project of the Cloud TPU")
    group.add_argument("--tpu_zone", help="zone of the Cloud TPU")
    add_check(parser, _check_machine)


def _check_machine(options: argparse.Namespace) -> None:
    if options.devices and options.tpu:
        raise UserError(
            "--devices runs on this machine and --tpu on another one: give only one of them."
        )
    for flag in ("gcp_project", "tpu_zone"):
        if getattr(options, flag) and not options.tpu:
            raise UserError(f"--{flag} says where the TPU of --tpu is: give --tpu as well.")


def refuse_empty_texts(parser: argparse.ArgumentParser) -> None:
    """Makes a parser refuse empty values for all flags that take a text.

    An empty path would mean the working directory, and an empty name would act as if the flag
    were missing.
    """
    for action in parser._actions:
        if action.nargs != 0 and action.type is None and action.dest != "gin_param":
            action.type = not_empty


def not_empty(text: str) -> str:
    """Parses a text, such as a path, as the `type` of a flag."""
    if not text.strip():
        raise argparse.ArgumentTypeError("its value is empty; pass one, or omit the flag")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} contains a null character")
    return text


def positive_integer(text: str) -> int:
    """Parses a whole number of at least 1, as the `type` of a flag."""
    return _parse_whole(text, 1)


def natural_number(text: str) -> int:
    """Parses a whole number of at least 0, as the `type` of a flag."""
    return _parse_whole(text, 0)


def _parse_whole(text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {low}")
    return value


def number(rule: value_rules.Rule) -> Callable[[str], float]:
    """Returns the `type` of a flag for numbers that follow a rule."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = None
        if not rule.accepts(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {rule.meaning}")
        return value

    return parse


def gin_bindings(options: argparse.Namespace) -> list[str]:
    """Returns the gin bindings of the shared flags that a command has."""
    params = [
        f"{name} = {value!r}"
        for flag, name in BINDINGS.items()
        if (value := getattr(options, flag, None)) is not None
    ]
    return [
        *options.gin_param,
        *params,
        *t5_flags.gin_bindings(options),
        *_device_bindings(options),
    ]


def training_bindings(options: argparse.Namespace) -> list[str]:
    """Returns the gin bindings of the flags of a training run."""
    params = gin_bindings(options)
    if options.steps is not None:
        params.append(f"utils.run.train_steps = {options.steps}")
    if options.seed is not None:
        params.append(f"run_config.seed.value = {options.seed}")
    if options.eval_every is not None:
        params.append(f"run_config.eval_every_steps.value = {options.eval_every}")
    if options.keep_best:
        params.append("run_config.keep_best.value = True")
    return params


def _device_bindings(options: argparse.Namespace) -> list[str]:
    if not hasattr(options, "devices"):
        return []
    if getattr(options, "tpu", None):
        # The configuration of a model_dir may name the devices on which it was trained.
        return ["devices.value = None"]
    return [f"devices.value = {options.devices}"] if options.devices else []


def tpu_cluster(options: argparse.Namespace) -> Any | None:
    """Returns the TPUClusterResolver that the flags name, or None for this machine.

    Raises:
      UserError: If there is no such TPU, or Google Cloud does not answer.
    """
    if not options.tpu:
        return None
    import tensorflow as tf

    try:
        return tf.distribute.cluster_resolver.TPUClusterResolver(
            options.tpu, zone=options.tpu_zone, project=options.gcp_project
        )
    # The clients of Google Cloud and the network raise errors of many types.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"The TPU {options.tpu!r} is not found ({type(error).__name__}: {reason}). Pass "
            "its name with --gcp_project and --tpu_zone, or its address, such as "
            "grpc://10.0.0.2:8470."
        ) from error
