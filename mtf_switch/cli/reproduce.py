"""`run_switch.py reproduce`: trains and evaluates the tables and figures of the paper."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtf_switch import machine
from mtf_switch.cli import flags, text_packages
from mtf_switch.errors import UserError
from mtf_switch.reproduction import scales

if TYPE_CHECKING:
    from mtf_switch.reproduction.exhibit import Training
    from mtf_switch.reproduction.reproduce import Collection

SEEDS = 5
JOBS = 1
# Flags that say what is trained and how: nothing else reads them.
_OF_TRAINING = ("rows", "jobs", "keep_model_dirs", "rerun_stale", "no_training")


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `reproduce`, with its flags."""
    parser = subparsers.add_parser(
        "reproduce",
        help="reproduce tables and figures of the paper at small scale, with verdicts",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains and evaluates every row of a table or figure with several seeds, "
        "and writes\na report: the paper's numbers beside ours, and a verdict on each claim "
        "of the paper.\nThe same command continues where it was stopped.",
        epilog="examples:\n  %(prog)s --list\n"
        "  %(prog)s table_11 --seeds=3 --results=runs/results",
    )
    parser.add_argument(
        "exhibits",
        nargs="*",
        metavar="EXHIBIT",
        help="a table, figure, appendix or section of the paper: table_11, figure_4, ... (see "
        "--list), or all",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="list the tables and figures: what they need, how long they take on this machine "
        "(the first time, a training of a minute measures that), and what is done",
    )
    parser.add_argument(
        "--verify",
        metavar="ROW",
        help="make a recorded result again, such as that of table_11/argmax, and compare",
    )
    _add_settings(parser)
    _add_tpu(parser)
    flags.add_check(parser, _check_scale)
    flags.add_check(parser, _check_mode)
    flags.add_check(parser, _check_training_flags)
    flags.add_check(parser, _check_rows)
    flags.add_check(parser, _check_folder)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    meanings = "; ".join(f"{scale.name}: {scale.meaning}" for scale in scales.SCALES.values())
    parser.add_argument(
        "--scale",
        choices=[*scales.SCALES, scales.PAPER],
        default="tiny",
        help=f"{meanings}; paper: plan the full-size rows and print their commands, or run "
        "them with --tpu (default: %(default)s)",
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
        metavar="N",
        help=f"trainings at the same time (default: {JOBS})",
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
        help="train or measure again what comes from another commit or requirements.txt",
    )
    parser.add_argument(
        "--no_training",
        action="store_true",
        help="only write the reports, from the results that there are",
    )


def _add_tpu(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TPU, for --scale=paper")
    group.add_argument("--tpu", help="name or address of a Cloud TPU, on which rows are run")
    group.add_argument("--gcp_project", help="project of the Cloud TPU")
    group.add_argument("--tpu_zone", help="zone of the Cloud TPU")
    group.add_argument(
        "--model_dirs",
        metavar="D",
        help="folder of their model_dirs, such as gs://BUCKET/paper",
    )


def _check_scale(options: argparse.Namespace) -> None:
    """Checks the flags that only one kind of scale has."""
    is_paper = options.scale == scales.PAPER
    of_paper = ("tpu", "gcp_project", "tpu_zone", "model_dirs")
    given = [flag for flag in of_paper if getattr(options, flag)]
    if given and not is_paper:
        raise UserError(
            f"--{given[0]} is for --scale=paper, and this is --scale={options.scale}."
        )
    if given and not (options.tpu and options.model_dirs):
        raise UserError("To run on a TPU, pass both --tpu and --model_dirs.")
    others = ("list", "verify", "results", "steps", *_OF_TRAINING)
    # Rows are chosen at every scale.
    given = [flag for flag in others if flag != "rows" and getattr(options, flag)]
    if is_paper and given:
        raise UserError(
            f"--{given[0]} is for the smaller scales: --scale=paper has no folder of results."
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


def _check_training_flags(options: argparse.Namespace) -> None:
    """Checks that flags about trainings come with trainings."""
    modes = ("list", "verify", "no_training")
    mode = next((mode for mode in modes if getattr(options, mode)), None)
    given = [flag for flag in _OF_TRAINING if flag != mode and getattr(options, flag)]
    if mode is None or not given:
        return
    what = {"list": "lists all rows", "verify": "makes one result again, in its own way"}
    raise UserError(
        f"--{mode} {what.get(mode, 'trains nothing')}, so --{given[0]} has no effect: omit it."
    )


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
    if options.scale == scales.PAPER:
        return
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
    from mtf_switch.reproduction import catalog, reproduce, speed_measurement, verification

    if options.scale == scales.PAPER:
        _plan_or_run(options)
        return
    collection = _collection(options)
    if options.list:
        _list(collection)
        return
    if options.verify is not None:
        _, row = catalog.find_row(options.verify)
        print(verification.verify(collection, row.training))
        return
    exhibits = catalog.find(options.exhibits)
    if options.no_training:
        collection.folder.prepare()
    else:
        rows = options.rows.split(",") if options.rows else []
        trainings = catalog.list_trainings(exhibits, rows)
        _check_texts(collection, trainings, options.rerun_stale)
        reproduce.train(
            collection,
            trainings,
            options.jobs or JOBS,
            options.keep_model_dirs,
            options.rerun_stale,
        )
        plan = collection.plan(at_once=1, keeps_model_dirs=False)
        speed_measurement.measure_all(
            plan, exhibits, trainings, collection.seeds, options.rerun_stale
        )
    *reports, first_page = reproduce.write_reports(collection, exhibits)
    for report in reports:
        print(f"{report.text}\n")
    print(f"{first_page.text} Reports: {collection.folder.path}/README.md")


def _list(collection: Collection) -> None:
    """Prints the table of `--list`, after it has measured the speed of this machine, once."""
    from mtf_switch.reproduction import catalog, listing, step_time

    exhibits = list(catalog.EXHIBITS.values())
    trainings = catalog.list_trainings(exhibits)
    every_scale = list(scales.SCALES.values())
    plan = collection.plan(at_once=1, keeps_model_dirs=False)
    measured = step_time.read_or_measure(plan, [*every_scale, collection.scale], trainings)
    work = listing.Workload(
        {training: collection.read(training) for training in trainings},
        collection.scale,
        every_scale,
        collection.seeds,
        measured,
    )
    print(listing.format_list(exhibits, work, step_time.find_file(collection.folder)))


def _check_texts(collection: Collection, trainings: Sequence[Training], reruns: bool) -> None:
    """Checks that the texts of the trainings that will run are there, before the first one.

    Results to be made again are set aside after this.
    """
    scale = collection.scale
    jobs = collection.list_missing(trainings, reruns)
    for training in dict.fromkeys(job.training for job in jobs):
        text_packages.check(scale.list_files(training), scale.list_params(training))


def _plan_or_run(options: argparse.Namespace) -> None:
    """Prints the plans and commands of full-size rows, and runs them if a TPU is named."""
    from mtf_switch.cli import planned_teacher
    from mtf_switch.reproduction import catalog, paper_scale

    tpu = paper_scale.Tpu()
    if options.tpu:
        names = ("tpu", "tpu_zone", "gcp_project")
        given = tuple(
            f"--{name}={getattr(options, name)}" for name in names if getattr(options, name)
        )
        tpu = paper_scale.Tpu(given, options.model_dirs.rstrip("/"))
    rows = options.rows.split(",") if options.rows else []
    planner = paper_scale.RowPlanner(planned_teacher.capture)
    for exhibit in catalog.find(options.exhibits):
        planned = []
        for row in catalog.select_rows(exhibit, rows):
            planned.append(planner.plan(row))
            print(paper_scale.format_row(exhibit, planned[-1], options.seeds, tpu), flush=True)
        if options.tpu:
            paper_scale.run(exhibit, planned, options.seeds, tpu)
