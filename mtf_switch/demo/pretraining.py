"""`make demo`: a Switch Transformer and its FLOP-matched T5, pre-trained and compared.

Both models see the same batches of the embedded text in the same order, with the same optimizer
and number of steps. Both are evaluated on the same validation batches at the same steps. The
run that writes the report measures every number in it.
"""

from __future__ import annotations

import os
import time

from mtf_switch.demo.results import DENSE, SPARSE, PretrainingResult
from mtf_switch.downstream import gains
from mtf_switch.errors import UserError

RUN = "runs/demo.gin"
# How long the steps of RUN take on two cores. --minutes scales the number of steps.
DEFAULT_MINUTES = 5.0
EVALUATIONS = 5
EVAL_BATCHES = 40


def run_demo(output_dir: str, minutes: float, seed: int) -> None:
    """Trains and evaluates both models, and reports.

    Args:
      output_dir: Folder for report.md, demo.png, results.json and one model_dir per model.
        Parts of the same demo that it already holds are not repeated.
      minutes: How long to train. It scales the number of steps.
      seed: Seed of both models.

    Raises:
      UserError: If output_dir holds another demo, or `minutes` is not positive.
    """
    if not minutes > 0:
        raise UserError(f"--minutes is {minutes:g}, but it must be above 0.")
    started = time.time()
    from mtf_switch.upstream import logs

    logs.show_errors_only()
    from mtf_switch.demo import pretraining_report

    dense, sparse = (
        _train_and_evaluate(name, os.path.join(output_dir, name), minutes, seed)
        for name in (DENSE, SPARSE)
    )
    command = f"python -m mtf_switch.demo --minutes={minutes:g} --seed={seed}"
    seconds = time.time() - started
    report = pretraining_report.make_report(dense, sparse, command, seconds)
    report.write(output_dir)
    print(report.text)
    print(
        f"\nReport: {output_dir}/report.md, plot: {output_dir}/demo.png "
        f"({seconds:.0f} s in all)."
    )


def _train_and_evaluate(
    name: str, model_dir: str, minutes: float, seed: int
) -> PretrainingResult:
    import numpy as np

    from mtf_switch.config import bound_settings, gin_config
    from mtf_switch.model import flops, switch_transformer
    from mtf_switch.model_dirs import saved_checkpoints, train_log
    from mtf_switch.runs import configured_run, data, evaluation, training

    gin_config.parse([f"models/{name}.gin", RUN], [f"run_config.seed.value = {seed}"])
    steps = _count_steps(bound_settings.read_settings().train_steps, minutes)
    gin_config.bind("utils.run.train_steps", steps)
    gin_config.bind("utils.run.total_run_steps", steps)
    gin_config.bind("utils.run.save_checkpoints_steps", steps // EVALUATIONS)
    gin_config.bind("utils.run.keep_checkpoint_max", EVALUATIONS + 1)
    run = configured_run.make_run(model_dir)
    settings = run.settings
    training.train(run)

    log = train_log.read(model_dir)
    seconds = {logged.step: logged.seconds for logged in log}
    batches = data.read_into_memory(
        data.make_eval_input_fn(settings, "validation", EVAL_BATCHES)
    )
    evaluations = [
        evaluation.evaluate(run, checkpoint=path, input_fn=batches)
        for path in saved_checkpoints.list_paths(model_dir)
        if saved_checkpoints.parse_step(path) in seconds
    ]
    cost = flops.compute_cost(switch_transformer.build(settings, run.vocabulary), settings)
    per_step = np.median(np.diff([0.0, *seconds.values()]))
    return PretrainingResult(
        name=name,
        parameters=cost.parameters,
        flops_per_token=cost.flops_per_token,
        tokens_per_second=float(settings.tokens_per_batch / per_step),
        points=[
            gains.EvaluationPoint(e.step, seconds[e.step], e.neg_log_perplexity)
            for e in evaluations
        ],
        target_tokens=evaluations[-1].target_tokens,
        dropped=[s.dropped_fraction for s in log if s.dropped_fraction is not None],
        expert_load=evaluations[-1].expert_load,
    )


def _count_steps(default: int, minutes: float) -> int:
    """Returns the number of training steps, a multiple of the number of evaluations."""
    per_evaluation = max(1, round(default * minutes / DEFAULT_MINUTES / EVALUATIONS))
    return per_evaluation * EVALUATIONS
