"""Handwritten results of `eval` and `train`: evaluations of several steps, training time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

# A task without metrics.
TASK = "c4_v220_span_corruption"


def write_run(
    model_dir: Path,
    qualities: Mapping[int, float],
    name: str = "eval",
    task: str = TASK,
    split: str = "validation",
    limit: int | None = None,
    tokens: int = 90,
    changes: Mapping[str, str] | None = None,
) -> str:
    """Writes a run. `quality`: step -> negative log perplexity. A step took half a second."""
    model_dir.mkdir(parents=True, exist_ok=True)
    for step, quality in qualities.items():
        data = {"step": step, "task": task, "split": split, "limit": limit}
        data.update(neg_log_perplexity=quality, target_tokens=tokens)
        # Files of earlier versions have no changes.
        data.update({} if changes is None else {"changes": changes})
        (model_dir / f"{name}-{step}.json").write_text(json.dumps(data))
    rows = [f"{step},{step / 2},3.0,,\r\n" for step in range(1, 301)]
    header = "step,seconds,loss,dropped_fraction,nats_per_token\r\n"
    (model_dir / "train_log.csv").write_bytes((header + "".join(rows)).encode())
    config = f"MIXTURE_NAME = '{TASK}'\nutils.run.skip_seen_data = True\n"
    (model_dir / "config.gin").write_text(config)
    return str(model_dir)
