"""`run_switch.py eval`: negative log perplexity on a split, and metrics of the routers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mtf_switch.layers.router_metrics import RouterMetrics
from mtf_switch.report import Report
from mtf_switch.runs import data, estimator, router_summaries, saved_checkpoints
from mtf_switch.runs.restoring import CheckShapesHook
from mtf_switch.runs.run import Run


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation, as `eval.json` holds it.

    Attributes:
      step: Step of the checkpoint.
      task: Name of the task or mixture.
      split: Split of the task.
      neg_log_perplexity: Minus the mean cross-entropy, in nats per target token.
      token_accuracy: Share of target tokens that the argmax predicts, teacher-forced.
      target_tokens: Number of target tokens that were scored.
      dropped_fraction: Share of the tokens that Switch layers dropped; 0 without such layers.
      expert_load: Layer -> share of its tokens whose first choice each expert was.
      served: Layer -> share of its tokens that their first choice served, their second, and
        so on, as far as the router goes.
      router: Layer -> dropped_fraction, entropy (nats), gate, aux_loss, z_loss.
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
    run: Run,
    split: str = "validation",
    batches: int | None = None,
    checkpoint: str | None = None,
    input_fn: Callable | None = None,
) -> Evaluation:
    """Evaluates a checkpoint of a run.

    Args:
      run: The run, made from the gin configuration that is parsed.
      split: Split of the task.
      batches: Number of batches to evaluate at most; None for the whole split.
      checkpoint: Path of the checkpoint; by default, the latest.
      input_fn: Input function that replaces the task's own; see `data.read_into_memory`.

    Returns:
      The Evaluation.

    Raises:
      UserError: If there is no checkpoint or no such split, or if either cannot be read.
    """
    checkpoint = checkpoint or saved_checkpoints.find_latest(run.model_dir)
    runner = estimator.build(run)
    input_fn = input_fn or data.make_eval_input_fn(run.settings, split, batches)
    with saved_checkpoints.explain_errors(run.model_dir):
        results = runner.evaluate(
            input_fn,
            steps=batches,
            hooks=[CheckShapesHook(checkpoint)],
            checkpoint_path=checkpoint,
            name=split,
        )
    return _to_evaluation(run.settings.task, split, results)


def _to_evaluation(task: str, split: str, results: Mapping[str, Any]) -> Evaluation:
    routers = router_summaries.metrics_from_results(results)
    tokens = sum(metrics.tokens for metrics in routers.values())
    dropped = sum(m.tokens * m.dropped_fraction for m in routers.values())
    return Evaluation(
        step=int(results["global_step"]),
        task=task,
        split=split,
        neg_log_perplexity=float(results["neg_log_perplexity"]),
        token_accuracy=float(results["token_accuracy"]),
        target_tokens=int(results["num_eval_tokens"]),
        dropped_fraction=dropped / max(tokens, 1.0),
        expert_load={name: m.expert_load.tolist() for name, m in routers.items()},
        served={name: np.trim_zeros(m.served, "b").tolist() for name, m in routers.items()},
        router={name: _router_scalars(metrics) for name, metrics in routers.items()},
    )


def _router_scalars(metrics: RouterMetrics) -> dict[str, float]:
    return {
        "dropped_fraction": metrics.dropped_fraction,
        "entropy": metrics.entropy,
        "gate": metrics.gate,
        "aux_loss": metrics.aux_loss,
        "z_loss": metrics.z_loss,
    }


def make_report(result: Evaluation) -> Report:
    """Returns the report of an evaluation; written into a model_dir, it is `eval.json`."""
    return Report("eval", _format_text(result), dataclasses.asdict(result))


def _format_text(result: Evaluation) -> str:
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
