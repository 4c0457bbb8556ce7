"""`make demo-finetune`: the five rows of the paper's Table 4, at laptop size.

It fine-tunes the demo's two models on the embedded downstream tasks: T5-tiny once, and
Switch-tiny with four pairs of dropout and expert dropout. It evaluates every checkpoint, and
reports each task at its best checkpoint, as in the paper. The run that writes the report
measures every number in it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from mtf_switch import errors
from mtf_switch.demo import pretraining
from mtf_switch.demo.results import FINETUNED_MODELS, FinetunedModel

RECIPE = ("runs/finetune.gin", "runs/demo_finetune.gin")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit code."""
    options = _make_parser().parse_args(arguments)
    return errors.run_command(
        lambda: run_demo(options.output_dir, options.demo_dir, options.steps, options.seed),
        program="demo-finetune",
        hint="(--output_dir names another folder.)",
        when_interrupted="The same command continues.",
    )


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mtf_switch.demo.finetuning", description=__doc__
    )
    parser.add_argument(
        "--steps", type=int, help="training steps of each model (default: the recipe's)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the data order and the dropout"
    )
    parser.add_argument(
        "--demo_dir",
        default="runs/demo",
        help="folder of the demo's models; if it has none, they are trained first (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--output_dir", default="runs/demo_finetune", help="default: %(default)s"
    )
    return parser


def run_demo(output_dir: str, demo_dir: str, steps: int | None, seed: int) -> None:
    """Fine-tunes every model, evaluates all checkpoints, and reports.

    Args:
      output_dir: Folder for report.md, table4.png, results.json and one model_dir per model.
        Parts of the same demo that it already holds are not repeated.
      demo_dir: Output folder of `make demo`. If it holds no demo yet, `make demo` runs first.
      steps: Training steps of each model; None means the recipe's.
      seed: Seed of all models.

    Raises:
      UserError: If a folder holds another demo.
    """
    from mtf_switch.upstream import logs

    logs.show_errors_only()
    if not os.path.exists(os.path.join(demo_dir, "results.json")):
        print(f"{demo_dir} holds no demo yet: pre-training its two models first.")
        pretraining.run_demo(demo_dir, pretraining.DEFAULT_MINUTES, seed=0)
    started = time.time()
    from mtf_switch.demo import finetuning_report

    scores = {
        model: _finetune_and_evaluate(
            model,
            os.path.join(demo_dir, model.pretrained),
            os.path.join(output_dir, model.name),
            steps,
            seed,
        )
        for model in FINETUNED_MODELS
    }
    command = f"python -m mtf_switch.demo.finetuning --seed={seed}"
    command += "" if steps is None else f" --steps={steps}"
    seconds = time.time() - started
    report = finetuning_report.make_report(output_dir, scores, command, seconds)
    report.write(output_dir)
    print(report.text)
    print(f"\nReport: {output_dir}/report.md, plot: {output_dir}/table4.png ({seconds:.0f} s).")


def _finetune_and_evaluate(
    model: FinetunedModel, pretrained_dir: str, model_dir: str, steps: int | None, seed: int
) -> list:
    from mtf_switch.downstream import evaluate_checkpoints
    from mtf_switch.runs import training
    from mtf_switch.runs.pretrained_checkpoint import PretrainedCheckpoint

    start = PretrainedCheckpoint.from_path(pretrained_dir)
    params = [f"run_config.seed.value = {seed}"]
    if steps is not None:
        every = max(1, steps // 4)
        params += [
            f"utils.run.train_steps = {steps}",
            f"utils.run.save_checkpoints_steps = {every}",
        ]
    run = start.configure_run([*RECIPE, model.gin_file], params, model_dir)
    training.train(run)
    return evaluate_checkpoints.score_checkpoints(run, "validation", "all")


if __name__ == "__main__":
    sys.exit(main())
