"""`run_switch.py eval`: negative log perplexity on a split, and what the routers did."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from mtf_switch import whole_file
from mtf_switch.config import run_settings
from mtf_switch.runs import checkpoints, data, estimator


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation; `eval.json` holds it.

    Attributes:
      step: of the checkpoint.
      task: of the registry.
      split: of the task.
      neg_log_perplexity: minus the mean cross-entropy, in nats per target token.
      token_accuracy: share of target tokens that the argmax gets right, teacher-forced.
      target_tokens: how many target tokens were scored.
      dropped_fraction: share of the tokens that Switch layers dropped; 0 without any.
      expert_load: layer -> share of its tokens whose first choice each expert was.
      served: layer -> share of its tokens that got a slot by their first choice, by their
        second, and so on, as far as the router goes.
      router: layer -> dropped_fraction, entropy (nats), gate, aux_loss, z_loss.
    """

    step: int
    task: str
    split: str
    neg_log_perplexity: float
    token_accuracy: float
    target_tokens: int
    dropped_fraction: float
    expert_load: dict[str, list[float]]
    served: dict[str, list[float]]
    router: dict[str, dict[str, float]]


def evaluate(
    model_dir: str,
    split: str = "validation",
    batches: int | None = None,
    cluster: Any | None = None,
    checkpoint: str | None = None,
    input_fn: Callable | None = None,
) -> Evaluation:
    """Evaluates a checkpoint of a model_dir, whose configuration is parsed.

    Args:
      model_dir: of a training run.
      split: of the task.
      batches: at most so many; None is the whole split.
      cluster: a TPUClusterResolver; None evaluates on this machine.
      checkpoint: path of one; the latest by default.
      input_fn: gives the batches, in place of the task's own; see `data.in_memory`.

    Returns:
      The Evaluation.

    Raises:
      UserError: without a checkpoint or such a split, or if either cannot be read.
    """
    settings = run_settings.from_gin()
    vocabulary = data.prepare(settings.task)
    checkpoint = checkpoint or checkpoints.find(model_dir)
    runner = estimator.build(settings, vocabulary, model_dir, cluster)
    input_fn = input_fn or data.eval_input_fn(settings, split, batches)
    with checkpoints.explained(model_dir):
        results = runner.evaluate(
            input_fn,
            steps=batches,
            hooks=[checkpoints.FitsModel(checkpoint)],
            checkpoint_path=checkpoint,
            name=split,
        )
    routers = estimator.router_results(results)
    tokens = sum(metrics.tokens for metrics in routers.values())
    dropped = sum(m.tokens * m.dropped_fraction for m in routers.values())
    return Evaluation(
        step=int(results["global_step"]),
        task=settings.task,
        split=split,
        neg_log_perplexity=float(results["neg_log_perplexity"]),
        token_accuracy=float(results["token_accuracy"]),
        target_tokens=int(results["num_eval_tokens"]),
        dropped_fraction=dropped / max(tokens, 1.0),
        expert_load={name: m.expert_load.tolist() for name, m in routers.items()},
        served={name: np.trim_zeros(m.served, "b").tolist() for name, m in routers.items()},
        router={
            name: {
                "dropped_fraction": m.dropped_fraction,
                "entropy": m.entropy,
                "gate": m.gate,
                "aux_loss": m.aux_loss,
                "z_loss": m.z_loss,
            }
            for name, m in routers.items()
        },
    )


def write(model_dir: str, result: Evaluation) -> None:
    """Writes `eval.json` into a model_dir, whole or not at all."""
    path = os.path.join(model_dir, "eval.json")
    with whole_file.open_for_writing(path) as file:
        json.dump(dataclasses.asdict(result), file, indent=2)
        file.write("\n")


def table(result: Evaluation) -> str:
    """The result as text for the screen."""
    lines = [
        f"task                {result.task} ({result.split})",
        f"step                {result.step}",
        f"neg_log_perplexity  {result.neg_log_perplexity:.4f} nats per target token",
        f"token_accuracy      {result.token_accuracy:.4f}",
        f"target_tokens       {result.target_tokens}",
    ]
    if result.router:
        lines.append(f"dropped_fraction    {result.dropped_fraction:.4f}")
        lines.append("")
        width = max(map(len, result.router))
        lines.append(f"{'layer':{width}s}  dropped  entropy  gate   load min-max  served")
        for name, metrics in result.router.items():
            load = result.expert_load[name]
            served = " + ".join(f"{share:.3f}" for share in result.served[name])
            lines.append(
                f"{name:{width}s}  {metrics['dropped_fraction']:7.4f}  "
                f"{metrics['entropy']:7.3f}  {metrics['gate']:.3f}  "
                f"{min(load):.3f}-{max(load):.3f}   {served}"
            )
    return "\n".join(lines)
