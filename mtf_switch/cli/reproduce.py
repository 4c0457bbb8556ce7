"""`run_switch.py reproduce`: trains and evaluates the tables and figures of the paper."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from mtf_switch import machine
from mtf_switch.cli import flags
from mtf_switch.errors import UserError
from mtf_switch.reproduction import scales

if TYPE_CHECKING:
    from mtf_switch.reproduction.reproduce import Collection

SEEDS = 5


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `reproduce`, with its flags."""
    parser = subparsers.add_parser(
        "reproduce",
        help="reproduce tables and figures of the paper at small scale, with verdicts",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains and evaluates every row of a table or figure with several seeds, "
        "and writes\na report: the paper's numbers beside ours, and a verdict on each claim "
        "of the paper.\nThe same command continues where it was stopped.",
        epilog="examples:\n  run_switch.py reproduce --list\n"
        "  run_switch.py reproduce table_11 --seeds=3 --results=runs/results",
    )
    parser.add_argument(
        "exhibits",
        nargs="*",
        metavar="EXHIBIT",
        help="table_11, figure_4, ... (see --list), or all",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="list the tables and figures, what is done and the time that is left",
    )
    parser.add_argument(
        "--verify",
        metavar="ROW",
        help="make a recorded result again, such as that of table_11/argmax, and compare",
    )
    _add_settings(parser)
    flags.add_check(parser, _check_mode)
    flags.add_check(parser, _check_rows)
    flags.add_check(parser, _check_folder)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    meanings = "; ".join(f"{scale.name}: {scale.meaning}" for scale in scales.SCALES.values())
    parser.add_argument(
        "--scale",
        choices=list(scales.SCALES),
        default="tiny",
        help=f"{meanings} (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=flags.positive_integer,
        default=SEEDS,
        metavar="N",
        help="the number of seeds of each row: 0 to N - 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--rows",
        metavar="R,R",
        help="train only these rows of the table or figure, such as argmax,input_jitter",
    )
    parser.add_argument(
        "--results",
        metavar="D",
        help="folder of the results (default: runs/reproduce_SCALE)",
    )
    parser.add_argument(
        "--jobs",
        type=flags.positive_integer,
        default=1,
        metavar="N",
        help="trainings at the same time, which disturbs measured speeds (default: 1)",
    )
    parser.add_argument(
        "--steps",
        type=flags.positive_integer,
        metavar="N",
        help="train for N steps, to try the command (default: those of the scale)",
    )
    parser.add_argument(
        "--keep_model_dirs",
        action="store_true",
        help="keep the model_dirs in the folder work of the results",
    )
    parser.add_argument(
        "--rerun_stale",
        action="store_true",
        help="train again what comes from another commit or another requirements.txt",
    )
    parser.add_argument(
        "--no_training",
        action="store_true",
        help="only write the reports, from the results that there are",
    )


def _check_mode(options: argparse.Namespace) -> None:
    from mtf_switch.reproduction import catalog

    given = [bool(options.exhibits), options.list, options.verify is not None]
    if sum(given) != 1:
        raise UserError(
            "Name what to reproduce, such as table_11 or all, or pass --list or --verify=ROW: "
            f"exactly one of them, not {sum(given)}."
        )
    if options.exhibits:
        catalog.find(options.exhibits)
    if options.verify is not None:
        catalog.find_row(options.verify)


def _check_rows(options: argparse.Namespace) -> None:
    if options.rows is None:
        return
    from mtf_switch.reproduction import catalog

    exhibits = catalog.find(options.exhibits)
    if len(exhibits) != 1:
        raise UserError(
            f"--rows={options.rows} names rows of one table or figure, but "
            f"{len(exhibits)} are given."
        )
    catalog.select_rows(exhibits[0], options.rows.split(","))


def _check_folder(options: argparse.Namespace) -> None:
    folder = _collection(options).folder
    folder.check_scale()
    if options.no_training and not os.path.isdir(folder.path):
        raise UserError(
            f"There is no folder {folder.path}, and --no_training makes no results. Pass the "
            "--results in which they are."
        )


def _collection(options: argparse.Namespace) -> Collection:
    from mtf_switch.reproduction import cost
    from mtf_switch.reproduction.reproduce import Collection
    from mtf_switch.reproduction.results_folder import ResultsFolder

    scale = scales.choose(options.scale, options.steps)
    path = options.results or os.path.join("runs", f"reproduce_{options.scale}")
    folder = ResultsFolder(path, scale.label)
    return Collection(folder, scale, options.seeds, machine.find_commit(), cost.measure)


def run_command(options: argparse.Namespace) -> None:
    """Lists, verifies, or trains what is missing and writes the reports."""
    from mtf_switch.reproduction import catalog, overview, reproduce, verification

    collection = _collection(options)
    if options.list:
        every = list(catalog.EXHIBITS.values())
        results = {exhibit.name: collection.read_exhibit(exhibit) for exhibit in every}
        print(overview.format_list(every, results, collection.scale, options.seeds))
        return
    if options.verify is not None:
        _, row = catalog.find_row(options.verify)
        print(verification.verify(collection, row.training))
        return
    from mtf_switch.reproduction import catalog

    exhibits = catalog.find(options.exhibits)
    if not options.no_training:
        rows = options.rows.split(",") if options.rows else []
        trainings = catalog.list_trainings(exhibits, rows)
        reproduce.train(
            collection, trainings, options.jobs, options.keep_model_dirs, options.rerun_stale
        )
    *reports, first_page = reproduce.write_reports(collection, exhibits)
    for report in reports:
        print(f"{report.text}\n")
    print(f"{first_page.text} Reports: {collection.folder.path}/README.md")
