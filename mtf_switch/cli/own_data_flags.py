"""The flags of the user's own labelled data: --train_file and those that belong to it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from mtf_switch.cli import flags
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError
from tasks import labelled_splits, own_metrics
from tasks.labelled_files import Columns
from tasks.labelled_splits import Examples, LabelledSplits

if TYPE_CHECKING:
    from mtf_switch.runs.run import Run

# seqio's rule for the names of tasks.
_NAME = re.compile(r"[\w.:]+\Z")
_FILES = {"train": "train_file", "validation": "validation_file", "test": "test_file"}
# The number of examples of each file whose length is compared with the model's.
_EXAMINED = 10_000
# Flag -> parameter of `own_data`.
_OTHERS = {
    "inputs_column": "inputs_column",
    "targets_column": "targets_column",
    "task_prefix": "prefix",
    "metric": "metrics",
}
# Binding -> the flag that makes it.
FLAGS = {
    **{f"own_data.{flag}": f"--{flag}" for flag in _FILES.values()},
    **{f"own_data.{parameter}": f"--{flag}" for flag, parameter in _OTHERS.items()},
    "own_data.name": "--task, or the name of the file",
}


def add(parser: argparse.ArgumentParser, trains: bool = False) -> None:
    """Adds the flags of the user's own labelled data.

    Args:
      parser: The parser of a command. Its flag `--task`, if any, names the task of the files.
      trains: Whether the command trains, and thus needs `--train_file`.
    """
    group = parser.add_argument_group(
        "your own labelled data, as .tsv, .csv or .jsonl files (docs/own_data.md)"
    )
    if trains:
        group.add_argument("--train_file", metavar="F", help="examples to train on")
    else:
        parser.set_defaults(train_file=None)
    held_out = " (default: a tenth of --train_file)" if trains else ""
    group.add_argument(
        "--validation_file", metavar="F", help=f"examples to evaluate on{held_out}"
    )
    group.add_argument("--test_file", metavar="F", help="further examples, for --split=test")
    group.add_argument(
        "--inputs_column",
        metavar="NAME",
        help="column of the inputs (default: inputs), or its number from 1 in a file without "
        "a line of names",
    )
    group.add_argument(
        "--targets_column", metavar="NAME", help="column of the targets (default: targets)"
    )
    group.add_argument(
        "--task_prefix", metavar="TEXT", help="text before each input, such as 'sentiment: '"
    )
    group.add_argument(
        "--metric",
        action="append",
        choices=tuple(own_metrics.METRICS),
        help="metric of decoded answers; repeatable (default: none, so eval measures the "
        "perplexity)",
    )
    parser.set_defaults(trains_on_own_data=trains)
    flags.add_check(parser, _check)


def _check(options: argparse.Namespace) -> None:
    """Checks the flags, reads the files, and prints what is remarkable about them."""
    inherited = _read_inherited(options)
    if not has_files(options):
        given = [flag for flag in _OTHERS if getattr(options, flag) is not None]
        if given and not inherited.get("name"):
            need = "--train_file" if options.trains_on_own_data else "--validation_file"
            raise UserError(
                f"--{given[0]} describes files of your own examples: pass {need}, too."
            )
        return
    if options.trains_on_own_data and options.train_file is None:
        raise UserError("There is nothing to train on: pass --train_file, too.")
    _check_name(get_task(options))
    splits = _make_splits(options, inherited)
    examples = splits.read()
    metrics = options.metric or inherited.get("metrics", ())
    _check_numbers(splits, examples, metrics)
    options.own_examples = examples
    for message in splits.describe(examples):
        print(message, file=sys.stderr)
    if not metrics:
        print(
            "Without --metric, eval will measure the perplexity of the targets. To score "
            f"decoded answers, pass one of {', '.join(own_metrics.METRICS)}.",
            file=sys.stderr,
        )


def _read_inherited(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the parameters of `own_data` in the model_dir's configuration."""
    model_dir = getattr(options, "model_dir", None)
    if model_dir is None or options.trains_on_own_data:
        return {}
    return saved_config.read_values(model_dir, "own_data")


def has_files(options: argparse.Namespace) -> bool:
    """Whether the flags name files."""
    return any(getattr(options, flag) is not None for flag in _FILES.values())


def get_task(options: argparse.Namespace) -> str | None:
    """Returns the name of the task of the files: `--task`, or the name of the first file.

    Without files, it is the value of `--task`, or None.
    """
    given = getattr(options, "task", None)
    if given is not None or not has_files(options):
        return given
    first = next(filter(None, (getattr(options, flag) for flag in _FILES.values())))
    stem = os.path.splitext(os.path.basename(first))[0]
    return re.sub(r"[^\w.:]+", "_", stem)


def _check_name(task: str) -> None:
    if not _NAME.match(task):
        raise UserError(
            f"--task={task} cannot name the task of your files: use letters, digits, '_', '.' "
            "and ':' only."
        )


def _make_splits(options: argparse.Namespace, inherited: dict[str, Any]) -> LabelledSplits:
    columns = {
        name: getattr(options, f"{name}_column") or inherited.get(f"{name}_column", name)
        for name in ("inputs", "targets")
    }
    paths = (getattr(options, flag) for flag in _FILES.values())
    return labelled_splits.make_splits(*paths, Columns(**columns))


def _check_numbers(splits: LabelledSplits, examples: Examples, metrics: list[str]) -> None:
    """Checks that targets are numbers if a metric compares numbers."""
    metric = next((m for m in metrics if m in own_metrics.OF_NUMBERS), None)
    for split in examples if metric else ():
        for line, target in ((e.line, text) for e in examples[split] for text in e.references):
            if own_metrics.parse_number(target, default=None) is None:
                path = splits.files.get(split, splits.files.get("train"))
                raise UserError(
                    f"{path}, line {line}: --metric={metric} compares numbers, but the target "
                    f"is {target[:40]!r}."
                )


def get_split(options: argparse.Namespace) -> str:
    """Returns `--split`; by default "test" with `--test_file` alone, and "validation" else."""
    if options.split is not None:
        return options.split
    is_test = options.test_file is not None and options.validation_file is None
    return "test" if is_test else "validation"


def print_cuts(options: argparse.Namespace, run: Run) -> None:
    """Prints on stderr which examples are too long for a run, or lack a piece of vocabulary.

    The first examples of each file are examined.

    Args:
      options: The parsed flags.
      run: The run that trains on the files.
    """
    if not has_files(options):
        return
    from mtf_switch.lines.encoded_lines import EncodedLines

    for split, flag in _FILES.items():
        path = getattr(options, flag)
        of_split = options.own_examples.get(split, ()) if path else ()
        examples = of_split[:_EXAMINED]
        if len(of_split) > _EXAMINED:
            print(
                f"{path}: the lengths of the first {_EXAMINED:,} of {len(of_split):,} examples "
                "are compared with the model's.",
                file=sys.stderr,
            )
        numbers = [example.line for example in examples]
        texts = {
            "inputs": [(options.task_prefix or "") + example.inputs for example in examples],
            "targets": [example.references[0] for example in examples],
        }
        for feature, lines in texts.items():
            vocabulary = run.feature_vocabulary(feature)
            length = run.settings.sequence_length[feature]
            file = f"{path} ({feature})"
            encoded = EncodedLines.encode(file, lines, vocabulary, length, numbers)
            for message in filter(None, (encoded.unknown, encoded.describe_cuts())):
                print(message, file=sys.stderr)


def gin_bindings(options: argparse.Namespace, task: str | None = None) -> list[str]:
    """Returns the gin bindings of the flags.

    Args:
      options: The parsed flags.
      task: The name of the task, if it is not that of `get_task`.
    """
    bindings = {
        parameter: value
        for flag, parameter in _OTHERS.items()
        if (value := getattr(options, flag)) is not None
    }
    task = task or get_task(options)
    if has_files(options):
        bindings["name"] = task
        # The files of a saved configuration belong to another task.
        bindings.update({flag: getattr(options, flag) for flag in _FILES.values()})
    found = [f"own_data.{name} = {value!r}" for name, value in bindings.items()]
    return [*found, f"MIXTURE_NAME = {task!r}"] if has_files(options) else found
