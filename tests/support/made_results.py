"""Made-up results of trainings, for tests of what `reproduce` makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mtf_switch.downstream.gains import EvaluationPoint
from mtf_switch.reproduction.page_context import Context
from mtf_switch.reproduction.training_result import Origin, TrainingResult

ORIGIN = Origin(
    commit="abc1234",
    configuration="c" * 64,
    gin="a" * 64,
    lock="b" * 64,
    data="d" * 64,
    versions={"tensorflow": "2.15.1"},
    machine="2 cores (a processor), 24 GiB",
    jobs=1,
)


def make_result(
    quality: float = -2.5,
    seed: int = 0,
    training: str = "switch_8",
    curve: Sequence[tuple[int, float]] | None = None,
    diverged_at: int | None = None,
    scale: str = "tiny",
    origin: Origin = ORIGIN,
    **metrics: Any,
) -> TrainingResult:
    """Makes a result whose evaluations take 0.5 seconds a step.

    Args:
      quality: The negative log perplexity at the end.
      seed: The seed.
      training: Name of the training.
      curve: (step, negative log perplexity) of each evaluation; by default three.
      diverged_at: The step at which it diverged.
      scale: Label of the scale.
      origin: What it depends on.
      **metrics: Further metrics.
    """
    points = [(0, -7.0), (50, quality - 0.5), (100, quality)] if curve is None else curve
    return TrainingResult(
        training=training,
        scale=scale,
        data_seed=seed,
        weights_seed=seed,
        commands=["run_switch.py train", "run_switch.py eval"],
        origin=origin,
        curve=[EvaluationPoint(step, 0.5 * step, value) for step, value in points],
        metrics={
            "quality": points[-1][1] if points else 0.0,
            "seconds": 50.0,
            "examples_per_second": 100.0,
            "parameters": 1000,
            "flops_per_token": 2000.0,
            **metrics,
        },
        routers={},
        diverged_at=diverged_at,
    )


def make_seeds(*qualities: float, **others: Any) -> dict[int, TrainingResult]:
    """Makes a result for each quality, with the seeds 0, 1, ..."""
    return {
        seed: make_result(quality, seed=seed, **others)
        for seed, quality in enumerate(qualities)
    }


def of_commit(result: TrainingResult, commit: str) -> TrainingResult:
    """Returns the result with another commit."""
    return dataclasses.replace(result, origin=dataclasses.replace(result.origin, commit=commit))


# What a page of three seeds says besides its results.
CONTEXT = Context("tiny", 3, ORIGIN.commit, ORIGIN.lock, ("--seeds=3",))
# Results of Table 11, of which one row is missing.
TABLE_11 = {
    "argmax": make_seeds(-2.50, -2.52, -2.54, training="switch_8_argmax"),
    "sample_softmax": make_seeds(-2.60, -2.62, -2.64, training="switch_8_sample_softmax"),
    "input_dropout": {},
    "input_jitter": make_seeds(-2.49, -2.52, -2.53),
}
