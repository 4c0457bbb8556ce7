"""The report of `make demo`: its table, page and plot."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from mtf_switch import machine, report
from mtf_switch.demo.results import PretrainingResult
from mtf_switch.downstream import gains
from mtf_switch.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DENSE_COLOR, _SPARSE_COLOR = "tab:gray", "tab:blue"


def make_report(
    dense: PretrainingResult, sparse: PretrainingResult, command: str, seconds: float
) -> Report:
    """Makes the report: results.json, report.md and demo.png.

    Args:
      dense: Result of the dense model.
      sparse: Result of the sparse model.
      command: The command that gave these results.
      seconds: How long it took.
    """
    return Report(
        name="results",
        text=f"{format_table(dense, sparse)}\n{describe_speed_up(dense, sparse)}",
        data=[dataclasses.asdict(result) for result in (dense, sparse)],
        documents={"report.md": format_page(dense, sparse, command, seconds)},
        plots={"demo.png": lambda figure: draw_results(figure, dense, sparse)},
    )


def format_table(dense: PretrainingResult, sparse: PretrainingResult) -> str:
    """Formats the comparison as a Markdown table."""
    heads = ["", "parameters", "FLOPs per token", "tokens/s", "neg. log perplexity"]
    rows = [
        [
            *(result.name, f"{result.parameters:,}", f"{result.flops_per_token:,.0f}"),
            *(f"{result.tokens_per_second:,.0f}", f"{result.final.neg_log_perplexity:.4f}"),
        ]
        for result in (dense, sparse)
    ]
    factors = [
        getattr(sparse, name) / getattr(dense, name)
        for name in ("parameters", "flops_per_token", "tokens_per_second")
    ]
    gain = sparse.final.neg_log_perplexity - dense.final.neg_log_perplexity
    rows.append(["sparse / dense", *(f"{factor:.2f}" for factor in factors), f"{gain:+.4f}"])
    return report.format_table(heads, rows)


def describe_speed_up(dense: PretrainingResult, sparse: PretrainingResult) -> str:
    """Says how much faster, in steps, the sparse model reaches the dense model's quality."""
    quality = dense.final.neg_log_perplexity
    steps = gains.find_crossing(sparse.points, quality)
    if steps is None:
        return (
            f"{sparse.name} does not reach the final quality of {dense.name} ({quality:.4f}) "
            f"in {sparse.final.step} steps: its best is "
            f"{max(point.neg_log_perplexity for point in sparse.points):.4f}. "
            "A longer run may show more: make demo MINUTES=30."
        )
    return (
        f"{sparse.name} reaches the final quality of {dense.name} ({quality:.4f} at step "
        f"{dense.final.step}) at step {steps:.0f}: "
        f"{gains.compute_speed_up(dense.points, sparse.points):.2f} times as fast in steps."
    )


def format_page(
    dense: PretrainingResult, sparse: PretrainingResult, command: str, seconds: float
) -> str:
    """Formats report.md; see `make_report`."""
    heads = ["step"]
    for result in (dense, sparse):
        heads += [f"{result.name}: seconds", "neg. log perplexity"]
    rows = [
        [
            f"{d.step}",
            *(f"{d.seconds:.1f}", f"{d.neg_log_perplexity:.4f}"),
            *(f"{s.seconds:.1f}", f"{s.neg_log_perplexity:.4f}"),
        ]
        for d, s in zip(dense.points, sparse.points)
    ]
    lines = [
        "# Switch Transformer against its FLOP-matched T5",
        "",
        f"Both were pre-trained by span corruption on the same {dense.final.step} batches of "
        "the embedded text, and evaluated on the same "
        f"{dense.target_tokens:,} target tokens of its validation split.",
        "",
        format_table(dense, sparse),
        "",
        describe_speed_up(dense, sparse),
        "",
        "FLOPs per token are those of the forward pass, counted as in the paper's Table 9. "
        "Negative log perplexity is in nats per target token; higher is better. One seed is "
        "one sample; docs/demo.md has three.",
        "",
        "![curves](demo.png)",
        "",
        report.format_table(heads, rows),
    ]
    made_by = f"Made by `{command}`, which took {seconds:.0f} s, on {machine.describe()}."
    lines += ["", made_by, ""]
    return "\n".join(lines)


def draw_results(figure: Figure, dense: PretrainingResult, sparse: PretrainingResult) -> None:
    """Draws quality against steps and seconds, expert load, and dropped tokens."""
    figure.set_size_inches(11, 8)
    axes = figure.subplots(2, 2)
    _draw_quality(axes[0, 0], dense, sparse, "step", "training steps")
    _draw_quality(axes[0, 1], dense, sparse, "seconds", "training time (seconds)")
    _draw_load(figure, axes[1, 0], sparse)
    _draw_dropped(axes[1, 1], sparse)


def _draw_quality(
    axis: Axes, dense: PretrainingResult, sparse: PretrainingResult, x: str, label: str
) -> None:
    for result, color in ((dense, _DENSE_COLOR), (sparse, _SPARSE_COLOR)):
        axis.plot(
            [getattr(point, x) for point in result.points],
            [point.neg_log_perplexity for point in result.points],
            marker="o",
            color=color,
            label=result.name,
        )
    axis.set_xlabel(label)
    axis.set_ylabel("neg. log perplexity (nats per target token)")
    axis.set_title(f"Quality against {label}")
    axis.grid(alpha=0.3)
    axis.legend()


def _draw_load(figure: Figure, axis: Axes, sparse: PretrainingResult) -> None:
    """Draws each expert's share of its layer's tokens, times the number of experts."""
    load = np.array(list(sparse.expert_load.values()))
    experts = load.shape[1]
    image = axis.imshow(load * experts, aspect="auto", cmap="viridis", vmin=0)
    axis.set_yticks(
        range(len(load)), [name.replace("/", "\n", 1) for name in sparse.expert_load]
    )
    axis.set_xticks(range(experts))
    axis.set_xlabel("expert")
    axis.set_ylabel("layer")
    axis.set_title(f"Expert load of {sparse.name}, last evaluation")
    figure.colorbar(image, ax=axis, label="times the even share")


def _draw_dropped(axis: Axes, sparse: PretrainingResult) -> None:
    steps = np.arange(1, len(sparse.dropped) + 1)
    axis.plot(steps, 100 * np.array(sparse.dropped), color=_SPARSE_COLOR, linewidth=0.8)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("training step")
    axis.set_ylabel("dropped tokens (%)")
    axis.set_title(f"Tokens over capacity of {sparse.name}")
    axis.grid(alpha=0.3)
