"""The flag --checkpoint of several commands, and the output file of each checkpoint."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence

from mtf_switch import network, whole_file
from mtf_switch.cli import flags
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import kept_vocabulary

_NAME = re.compile(r"model\.ckpt-\d+\Z")
_ENDS_IN_STEP = re.compile(r"-(\d+)\Z")


def add(parser: argparse.ArgumentParser, several: bool = True) -> None:
    """Adds `--checkpoint`. Call this before `file_flags.add_output`, which reads it.

    Args:
      parser: The parser.
      several: Whether the command reads several checkpoints, and writes a file for each.
    """
    files = (
        "; several give one output file each, with their steps at the ends of the names: "
        "out.txt-1000"
        if several
        else ""
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        default=[],
        metavar="C",
        help="checkpoint to use: model.ckpt-1000 of the model_dir, or a path such as "
        f"runs/other/model.ckpt-1000{files} (default: the latest of the "
        "model_dir)",
    )
    flags.add_check(parser, _check)


def _check(options: argparse.Namespace) -> None:
    for path in list_paths(options):
        network.check_address(path, "Copy the checkpoint to this machine.")
        if _ENDS_IN_STEP.search(path) is None:
            raise UserError(
                f"--checkpoint={path} does not name a checkpoint: its name ends in a step, as "
                f"in model.ckpt-1000.{_suggest_names(path)}"
            )
        if not whole_file.is_address(path) and not os.path.isfile(f"{path}.index"):
            raise UserError(
                f"There is no checkpoint {path}: its file {os.path.basename(path)}.index is "
                f"missing.{_suggest_names(os.path.dirname(path))}"
            )
        _check_vocabulary(options.model_dir, path)
    if len(set(list_suffixes(options))) < len(options.checkpoint):
        raise UserError(
            "Two checkpoints of --checkpoint are of the same step, so their results would go "
            "to the same file: pass them in two commands, with an --output_file each."
        )


def _suggest_names(folder: str) -> str:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    indices = {name.removesuffix(".index") for name in names if name.endswith(".index")}
    found = sorted(filter(_NAME.match, indices), key=lambda name: int(name.split("-")[1]))
    return f" {folder} has {', '.join(found)}." if found else ""


def _check_vocabulary(model_dir: str, path: str) -> None:
    """Checks that a checkpoint of another folder was trained with the model's vocabulary."""
    if not is_elsewhere(model_dir, path):
        return
    own, other = kept_vocabulary.find(model_dir), kept_vocabulary.find(os.path.dirname(path))
    if own is not None and other is not None:
        kept_vocabulary.check_same(
            own,
            other,
            f"The run of {path}",
            "Pass the folder of the checkpoint as --model_dir.",
        )


def is_elsewhere(model_dir: str, path: str) -> bool:
    """Whether a checkpoint is in another folder than the model_dir."""
    return os.path.realpath(os.path.dirname(path)) != os.path.realpath(model_dir)


def list_paths(options: argparse.Namespace) -> list[str]:
    """Returns the paths of the checkpoints of `--checkpoint`; none if it was not given."""
    return [
        os.path.join(options.model_dir, text) if _NAME.match(text) else text
        for text in options.checkpoint
    ]


def list_suffixes(options: argparse.Namespace) -> Sequence[str]:
    """Returns the end of the name of each output file: "" for one, "-1000" if several."""
    paths = list_paths(options)
    if len(paths) < 2:
        return [""]
    return [_ENDS_IN_STEP.search(path)[0] for path in paths]


def iterate(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yields each checkpoint, by default the latest, and the end of its output file's name.

    For a checkpoint of another folder, stderr says whose configuration describes the model.
    """
    from mtf_switch.model_dirs import saved_checkpoints

    # Training may save a later one in the meantime.
    paths = list_paths(options) or [saved_checkpoints.find_latest(options.model_dir)]
    for path, suffix in zip(paths, list_suffixes(options)):
        if is_elsewhere(options.model_dir, path):
            print(
                f"The weights are those of {path}; {options.model_dir}/config.gin describes "
                "the model.",
                file=sys.stderr,
            )
        yield path, suffix
