"""The plot of metrics against steps."""

from __future__ import annotations

import os
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mtf_switch.downstream import checkpoint_scores


def write(path: str, title: str, steps: Sequence[checkpoint_scores.StepScores]) -> None:
    """Draws each metric, and the averages as thick lines.

    Args:
      path: of a PNG file.
      title: of the plot.
      steps: in order.
    """
    figure, axis = plt.subplots(figsize=(9, 5), constrained_layout=True)
    for column in checkpoint_scores.columns(steps):
        points = [(s.step, checkpoint_scores.value(s, column)) for s in steps]
        points = [point for point in points if point[1] is not None]
        axis.plot(
            *zip(*points),
            marker="o",
            linewidth=1.2 if column[0] else 3,
            label="/".join(filter(None, column)),
        )
    axis.set_xlabel("steps of fine-tuning")
    axis.set_ylabel("metric")
    axis.set_title(title)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    # The ending says the format, which ".part" would hide.
    figure.savefig(path + ".part", dpi=120, format="png")
    plt.close(figure)
    os.replace(path + ".part", path)
