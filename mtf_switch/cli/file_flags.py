"""The flags for text files and folders that commands read and write.

Input files are read, and output files are checked, before the command runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtf_switch import whole_file
from mtf_switch.cli import checkpoint_flag, flags, own_texts
from mtf_switch.lines.output_files import OutputFile
from mtf_switch.report import Report

if TYPE_CHECKING:
    from mtf_switch.lines.encoded_lines import EncodedLines
    from mtf_switch.runs.run import Run

# The first letters of the names of files in a model_dir that `predict` and `score` read.
_FILES_OF_RUN = ("config.gin", "checkpoint", "vocabulary.", "model.ckpt-")


def add_input(parser: argparse.ArgumentParser, name: str, meaning: str) -> None:
    """Adds the flag of a text file of lines.

    The file is read before the command runs, and `get_texts` returns its lines.

    Args:
      parser: The parser of a command.
      name: The flag without dashes: "input_file" or "target_file".
      meaning: The meaning of a line, for the help text.
    """
    parser.add_argument(f"--{name}", required=True, metavar="F", help=meaning)
    parser.set_defaults(inputs=(*(parser.get_default("inputs") or ()), name))

    def read(options: argparse.Namespace) -> None:
        setattr(options, f"texts_of_{name}", own_texts.read(options, name))

    flags.add_check(parser, read)


def get_texts(options: argparse.Namespace, name: str) -> dict[int, str]:
    """Returns the texts of the file that a flag of `add_input` names, by their lines."""
    return getattr(options, f"texts_of_{name}")


def encode(options: argparse.Namespace, name: str, run: Run) -> EncodedLines:
    """Encodes the texts of the file that a flag of `add_input` names, for a run."""
    from mtf_switch.lines.encoded_lines import EncodedLines

    feature = name.replace("_file", "s")
    texts = get_texts(options, name)
    return EncodedLines.encode(
        getattr(options, name),
        list(texts.values()),
        run.feature_vocabulary(feature),
        run.settings.sequence_length[feature],
        list(texts),
    )


def add_output(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Adds `--output_file` and `--overwrite`.

    Call this after `add_input` and `checkpoint_flag.add`.
    """
    parser.add_argument("--output_file", required=True, metavar="F", help=meaning)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the output file even if this command did not write it",
    )

    def check(options: argparse.Namespace) -> None:
        for suffix in checkpoint_flag.list_suffixes(options):
            get_output(options, suffix).check(_list_inputs(options))

    flags.add_check(parser, check)


def _list_inputs(options: argparse.Namespace) -> list[str]:
    """Returns the files that `predict` or `score` reads: texts, configuration and model."""
    texts = [getattr(options, name) for name in options.inputs]
    others = [*options.gin_file, *filter(None, [options.vocabulary])]
    of_run = [
        os.path.join(options.model_dir, name)
        for name in whole_file.list_names(options.model_dir)
        if name.startswith(_FILES_OF_RUN)
    ]
    return [*texts, *others, *of_run]


def get_output(options: argparse.Namespace, suffix: str = "") -> OutputFile:
    """Returns the file that `--output_file` names, with a suffix at the end of its name."""
    return OutputFile(options.output_file + suffix, options.command, options.overwrite)


def write_output(
    options: argparse.Namespace,
    suffix: str,
    lines: Sequence[str],
    checkpoint: str,
    began: float,
) -> None:
    """Writes the file that `--output_file` names, and says so.

    Args:
      options: The parsed flags.
      suffix: See `get_output`.
      lines: The lines.
      checkpoint: The path of the checkpoint.
      began: When the command began, by `time.monotonic`.
    """
    from mtf_switch.model_dirs import saved_checkpoints

    output = get_output(options, suffix)
    output.write_lines(lines)
    step = saved_checkpoints.parse_step(checkpoint)
    noun = "line" if len(lines) == 1 else "lines"
    print(
        f"wrote {output.path}: {len(lines)} {noun}, step {step}, "
        f"{time.monotonic() - began:.1f} seconds"
    )


def print_messages(messages: Sequence[str], suffix: str = "") -> None:
    """Prints the messages that are not empty to stderr.

    Args:
      messages: Sentences about an output file, or about an input file.
      suffix: The end of the output file's name, which then precedes each message.
    """
    for message in filter(None, messages):
        start = f"Step {suffix.removeprefix('-')}: " if suffix else ""
        print(start + message, file=sys.stderr)


def add_report_folder(
    parser: argparse.ArgumentParser, meaning: str, names: Sequence[str]
) -> None:
    """Adds `--output_dir` for the files of a Report, and `--overwrite`.

    Args:
      parser: The parser of a command.
      meaning: The content of the folder, for the help text.
      names: The names of all files that the command may write there.
    """
    parser.add_argument("--output_dir", metavar="O", help=meaning)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files of these names even if this command did not write them",
    )

    flags.add_folder_check(parser, "output_dir", may_be_address=True)

    def check(options: argparse.Namespace) -> None:
        for file in _list_files(options, names):
            if os.path.exists(file.path):
                file.check()

    flags.add_check(parser, check)


def write_report(options: argparse.Namespace, report: Report) -> None:
    """Writes a report into the folder that `--output_dir` names, if it is given."""
    if options.output_dir:
        report.write(options.output_dir)
    for file in _list_files(options, report.file_names):
        file.remember()


def _list_files(options: argparse.Namespace, names: Sequence[str]) -> list[OutputFile]:
    if not options.output_dir:
        return []
    return [
        OutputFile(os.path.join(options.output_dir, name), options.command, options.overwrite)
        for name in names
    ]
