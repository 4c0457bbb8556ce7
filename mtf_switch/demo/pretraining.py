"""`make demo`: a Switch Transformer and its FLOP-matched T5, pre-trained and compared.

Both see the same batches of the embedded text, in the same order, with the same optimizer
and number of steps; both are evaluated on the same validation batches at the same steps.
Everything in the report is measured by the run that writes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence

from mtf_switch.errors import UserError

DENSE, SPARSE = "t5_tiny", "switch_tiny"
RUN = "runs/demo.gin"
# What `make demo` trains for on two cores; --minutes scales it.
DEFAULT_MINUTES = 5.0
EVALUATIONS = 5
EVAL_BATCHES = 40


@dataclasses.dataclass(frozen=True)
class Point:
    """One evaluation.

    Attributes:
      step: of the checkpoint.
      seconds: spent in training steps until then.
      neg_log_perplexity: on the validation batches, nats per target token.
    """

    step: int
    seconds: float
    neg_log_perplexity: float


@dataclasses.dataclass(frozen=True)
class ModelResult:
    """What one model of the demo cost and reached.

    Attributes:
      name: of its gin file.
      parameters: trainable ones.
      flops_per_token: forward, as Table 9 counts.
      tokens_per_second: positions of inputs and targets, median over the steps.
      points: evaluations in order of steps.
      target_tokens: of each evaluation.
      dropped: dropped share of each training step; empty for a dense model.
      expert_load: layer -> share of tokens per expert, in the last evaluation.
    """

    name: str
    parameters: int
    flops_per_token: float
    tokens_per_second: float
    points: list[Point]
    target_tokens: int
    dropped: list[float]
    expert_load: dict[str, list[float]]

    @property
    def final(self) -> Point:
        """The last evaluation."""
        return self.points[-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        run(options.output_dir, options.minutes, options.seed)
    except UserError as error:
        print(f"demo: {error} (--output_dir names another folder.)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command continues.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mtf_switch.demo", description=__doc__)
    parser.add_argument(
        "--minutes",
        type=float,
        default=DEFAULT_MINUTES,
        help="train in proportion longer; what the machine makes of it may differ "
        "(default: %(default)g)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of data order, weights and noise")
    parser.add_argument("--output_dir", default="runs/demo", help="default: %(default)s")
    return parser


def run(output_dir: str, minutes: float, seed: int) -> None:
    """Trains, evaluates and reports.

    Args:
      output_dir: gets report.md, demo.png, results.json and one model_dir per model. If it
        holds a part of the same demo, that part is kept.
      minutes: scales the number of steps.
      seed: of both models.

    Raises:
      UserError: if output_dir holds another demo, or a mistake in the options.
    """
    if not minutes > 0:
        raise UserError(f"--minutes is {minutes:g}, but it is above 0.")
    started = time.time()
    from mtf_switch.upstream import logs

    logs.show_errors_only()
    from mtf_switch.demo import pretraining_report

    results = [
        _train_and_evaluate(name, os.path.join(output_dir, name), minutes, seed)
        for name in (DENSE, SPARSE)
    ]
    command = f"python -m mtf_switch.demo --minutes={minutes:g} --seed={seed}"
    took = time.time() - started
    with open(os.path.join(output_dir, "results.json"), "w", encoding="utf-8") as file:
        json.dump([dataclasses.asdict(result) for result in results], file, indent=2)
    pretraining_report.write(output_dir, results, command, took)
    print(pretraining_report.table(*results))
    print(pretraining_report.speed_up_sentence(*results))
    print(
        f"\nReport: {output_dir}/report.md, plot: {output_dir}/demo.png ({took:.0f} s in all)."
    )


def _train_and_evaluate(name: str, model_dir: str, minutes: float, seed: int) -> ModelResult:
    import numpy as np

    from mtf_switch.config import gin_config, run_settings
    from mtf_switch.model import flops, switch_transformer
    from mtf_switch.runs import checkpoints, data, evaluation, train_log, training

    gin_config.parse([f"models/{name}.gin", RUN], [f"run_config.seed.value = {seed}"])
    steps = _steps(run_settings.from_gin().train_steps, minutes)
    gin_config.bind("utils.run.train_steps", steps)
    gin_config.bind("utils.run.total_run_steps", steps)
    gin_config.bind("utils.run.save_checkpoints_steps", steps // EVALUATIONS)
    gin_config.bind("utils.run.keep_checkpoint_max", EVALUATIONS + 1)
    settings = run_settings.from_gin()
    training.train(model_dir)

    log = train_log.read(model_dir)
    seconds = {logged.step: logged.seconds for logged in log}
    batches = data.in_memory(data.eval_input_fn(settings, "validation", EVAL_BATCHES))
    evaluations = [
        evaluation.evaluate(model_dir, checkpoint=path, input_fn=batches)
        for path in checkpoints.all_of(model_dir)
        if checkpoints.step_of(path) in seconds
    ]
    cost = flops.compute_cost(
        switch_transformer.build(settings, data.prepare(settings.task)), settings
    )
    per_step = np.median(np.diff([0.0, *seconds.values()]))
    return ModelResult(
        name=name,
        parameters=cost.parameters,
        flops_per_token=cost.flops_per_token,
        tokens_per_second=float(settings.tokens_per_batch / per_step),
        points=[Point(e.step, seconds[e.step], e.neg_log_perplexity) for e in evaluations],
        target_tokens=evaluations[-1].target_tokens,
        dropped=[s.dropped_fraction for s in log if s.dropped_fraction is not None],
        expert_load=evaluations[-1].expert_load,
    )


def _steps(default: int, minutes: float) -> int:
    """Steps for so many minutes: a multiple of the number of evaluations."""
    per_evaluation = max(1, round(default * minutes / DEFAULT_MINUTES / EVALUATIONS))
    return per_evaluation * EVALUATIONS
