"""The demo's table, plot and report, all from its measured results."""

from __future__ import annotations

import os

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from mtf_switch import machine
from mtf_switch.demo import pretraining

_DENSE_COLOR, _SPARSE_COLOR = "tab:gray", "tab:blue"


def table(dense: pretraining.ModelResult, sparse: pretraining.ModelResult) -> str:
    """The comparison as a Markdown table."""
    rows = [
        "| | parameters | FLOPs per token | tokens/s | neg. log perplexity |",
        "|---|---|---|---|---|",
    ]
    for result in (dense, sparse):
        rows.append(
            f"| {result.name} | {result.parameters:,} | {result.flops_per_token:,.0f} | "
            f"{result.tokens_per_second:,.0f} | {result.final.neg_log_perplexity:.4f} |"
        )
    gain = sparse.final.neg_log_perplexity - dense.final.neg_log_perplexity
    rows.append(
        f"| sparse / dense | {sparse.parameters / dense.parameters:.2f} | "
        f"{sparse.flops_per_token / dense.flops_per_token:.2f} | "
        f"{sparse.tokens_per_second / dense.tokens_per_second:.2f} | {gain:+.4f} |"
    )
    return "\n".join(rows)


def steps_to_reach(points: list[pretraining.Point], quality: float) -> float | None:
    """The step at which a curve first reaches a quality, between evaluations by a line.

    Args:
      points: evaluations in order of steps.
      quality: negative log perplexity.

    Returns:
      A step, or None if no evaluation reaches it.
    """
    for before, after in zip([None, *points], points):
        if after.neg_log_perplexity < quality:
            continue
        if before is None:
            return float(after.step)
        rise = after.neg_log_perplexity - before.neg_log_perplexity
        share = (quality - before.neg_log_perplexity) / rise
        return before.step + share * (after.step - before.step)
    return None


def speed_up_sentence(dense: pretraining.ModelResult, sparse: pretraining.ModelResult) -> str:
    """How many times fewer steps the sparse model needs for the dense one's final quality."""
    quality = dense.final.neg_log_perplexity
    steps = steps_to_reach(sparse.points, quality)
    if steps is None:
        return (
            f"{sparse.name} does not reach the final quality of {dense.name} ({quality:.4f}) "
            f"in {sparse.final.step} steps: its best is "
            f"{max(point.neg_log_perplexity for point in sparse.points):.4f}. "
            "A longer run may show more: make demo MINUTES=30."
        )
    return (
        f"{sparse.name} reaches the final quality of {dense.name} ({quality:.4f} at step "
        f"{dense.final.step}) at step {steps:.0f}: {dense.final.step / steps:.2f} times as "
        "fast in steps."
    )


def write(
    output_dir: str, results: list[pretraining.ModelResult], command: str, took: float
) -> None:
    """Writes `report.md` and `demo.png` into output_dir.

    Args:
      output_dir: of the demo.
      results: of the dense and the sparse model.
      command: that made them.
      took: seconds of the whole demo.
    """
    dense, sparse = results
    _plot(os.path.join(output_dir, "demo.png"), dense, sparse)
    lines = [
        "# Switch Transformer against its FLOP-matched T5",
        "",
        f"Both were pre-trained by span corruption on the same {dense.final.step} batches of "
        "the embedded text, and evaluated on the same "
        f"{dense.target_tokens:,} target tokens of its validation split.",
        "",
        table(dense, sparse),
        "",
        speed_up_sentence(dense, sparse),
        "",
        "FLOPs per token are forward ones, counted as in the paper's Table 9. Negative log "
        "perplexity is in nats per target token; higher is better. One seed is one sample: "
        "docs/demo.md has three.",
        "",
        "![curves](demo.png)",
        "",
        "| step | " + " | ".join(f"{r.name}: seconds | neg. log perplexity" for r in results)
        + " |",
        "|---" * 5 + "|",
    ]  # fmt: skip
    for d, s in zip(dense.points, sparse.points):
        lines.append(
            f"| {d.step} | {d.seconds:.1f} | {d.neg_log_perplexity:.4f} | {s.seconds:.1f} | "
            f"{s.neg_log_perplexity:.4f} |"
        )
    made_by = f"Made by `{command}`, which took {took:.0f} s, on {machine.describe()}."
    lines += ["", made_by, ""]
    with open(os.path.join(output_dir, "report.md"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines))


def _plot(path: str, dense: pretraining.ModelResult, sparse: pretraining.ModelResult) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), constrained_layout=True)
    _plot_quality(axes[0, 0], dense, sparse, "step", "steps")
    _plot_quality(axes[0, 1], dense, sparse, "seconds", "seconds of training")
    _plot_load(figure, axes[1, 0], sparse)
    _plot_dropped(axes[1, 1], sparse)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_quality(axis, dense, sparse, x: str, label: str) -> None:
    for result, color in ((dense, _DENSE_COLOR), (sparse, _SPARSE_COLOR)):
        axis.plot(
            [getattr(point, x) for point in result.points],
            [point.neg_log_perplexity for point in result.points],
            marker="o",
            color=color,
            label=result.name,
        )
    axis.set_xlabel(label)
    axis.set_ylabel("neg. log perplexity (nats)")
    axis.set_title(f"Quality against {label}")
    axis.grid(alpha=0.3)
    axis.legend()


def _plot_load(figure, axis, sparse: pretraining.ModelResult) -> None:
    """Share of each layer's tokens that chose each expert; 1 is an even share."""
    load = np.array(list(sparse.expert_load.values()))
    experts = load.shape[1]
    image = axis.imshow(load * experts, aspect="auto", cmap="viridis", vmin=0)
    axis.set_yticks(
        range(len(load)), [name.replace("/", "\n", 1) for name in sparse.expert_load]
    )
    axis.set_xticks(range(experts))
    axis.set_xlabel("expert")
    axis.set_title("Expert load, last evaluation")
    figure.colorbar(image, ax=axis, label="times the even share")


def _plot_dropped(axis, sparse: pretraining.ModelResult) -> None:
    steps = np.arange(1, len(sparse.dropped) + 1)
    axis.plot(steps, 100 * np.array(sparse.dropped), color=_SPARSE_COLOR, linewidth=0.8)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("steps")
    axis.set_ylabel("dropped tokens (%)")
    axis.set_title("Tokens over capacity, in training")
    axis.grid(alpha=0.3)
