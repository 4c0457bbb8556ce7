"""`make demo-multilingual`: mSwitch-tiny against mT5-tiny by language (Figures 7 and 8).

Both models of a seed see the same batches of the mixture `multilingual` in the same order, with
the same optimizer and number of steps. All checkpoints are evaluated on the whole validation
split of every language.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from mtf_switch import errors, machine
from mtf_switch.errors import UserError

RUN = "runs/multilingual.gin"
DENSE, SPARSE = "mt5_tiny", "mswitch_tiny"
EVALUATIONS = 10


def run_demo(output_dir: str, seeds: int, steps: int | None, params: Sequence[str]) -> None:
    """Trains and evaluates both models with each seed, and reports.

    Args:
      output_dir: Folder for report.md, the plots, languages.json and one model_dir for each
        model and seed. Parts of the same demo that it already holds are not repeated.
      seeds: The number of seeds, at least 1.
      steps: Training steps; None for those of the gin file.
      params: Further gin bindings for both models.

    Raises:
      UserError: If output_dir holds another demo, or the text is not there.
    """
    if seeds < 1 or (steps is not None and steps < EVALUATIONS):
        raise UserError(
            f"--seeds must be at least 1 and --steps at least {EVALUATIONS}; they are {seeds} "
            f"and {steps}."
        )
    started = time.time()
    from mtf_switch.upstream import logs

    logs.show_errors_only()
    from mtf_switch.downstream import language_gains, language_report
    from mtf_switch.runs import evaluation, task_sums

    folders = {
        name: [os.path.join(output_dir, f"{name}_{seed}") for seed in range(seeds)]
        for name in (DENSE, SPARSE)
    }
    for seed in range(seeds):
        for name, of_seeds in folders.items():
            bindings = [*params, f"run_config.seed.value = {seed}"]
            task = _train_and_evaluate(name, of_seeds[seed], bindings, steps)
    comparison = language_gains.compare(
        folders[DENSE], folders[SPARSE], task_sums.list_names(task), evaluation.VALIDATION
    )
    seconds = time.time() - started
    options = [f"--seeds={seeds}", *([] if steps is None else [f"--steps={steps}"])]
    options += [f"--gin_param='{param}'" for param in params]
    made_by = (
        f"Made by `python -m mtf_switch.demo.languages {' '.join(options)}`, which took "
        f"{seconds:.0f} s, on {machine.describe()}."
    )
    report = language_report.make_report(comparison, (DENSE, SPARSE), made_by)
    report.write(output_dir)
    print(report.text)
    print(
        f"\nReport: {output_dir}/report.md, plots: figure_7.png and figure_8.png beside it "
        f"({seconds:.0f} s in all)."
    )


def _train_and_evaluate(
    name: str, model_dir: str, params: Sequence[str], steps: int | None
) -> str:
    """Trains a model, evaluates its checkpoints, and returns the name of its mixture."""
    from mtf_switch.config import bound_settings, gin_config
    from mtf_switch.downstream import perplexity_curve, quality_curve
    from mtf_switch.model_dirs import saved_checkpoints
    from mtf_switch.runs import configured_run, data, evaluation, training

    gin_config.parse([f"models/{name}.gin", RUN], list(params))
    if steps is not None:
        gin_config.bind("utils.run.train_steps", steps)
        gin_config.bind("utils.run.total_run_steps", steps)
        gin_config.bind("utils.run.save_checkpoints_steps", steps // EVALUATIONS)
    task = bound_settings.read_settings().task
    run = configured_run.make_run(model_dir)
    training.train(run)
    split = evaluation.VALIDATION
    wanted = set(map(saved_checkpoints.parse_step, saved_checkpoints.list_paths(model_dir)))
    done = set(quality_curve.read_evaluations(model_dir, task, split, skips_damaged=True))
    if wanted - done:
        # The pipelines of all languages take longer than a small model.
        batches = data.read_into_memory(data.make_eval_input_fn(run.settings, split, None))
        for _ in perplexity_curve.measure_checkpoints(
            run, split, sorted(wanted - done), task, input_fn=batches
        ):
            pass
    return task


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit code."""
    options = _make_parser().parse_args(arguments)
    return errors.run_command(
        lambda: run_demo(options.output_dir, options.seeds, options.steps, options.gin_param),
        program="demo",
        hint="(--output_dir names another folder.)",
        when_interrupted="The same command continues.",
    )


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mtf_switch.demo.languages", description=__doc__
    )
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--steps", type=int, help="training steps of each model (default: that of the gin file)"
    )
    parser.add_argument(
        "--gin_param",
        action="append",
        default=[],
        metavar="P",
        help='gin binding for both models, such as \'multilingual.languages = ["de", "fr"]\'',
    )
    parser.add_argument(
        "--output_dir", default="runs/multilingual", help="default: %(default)s"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
