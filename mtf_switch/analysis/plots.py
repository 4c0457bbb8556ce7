"""Plots of an analysis: small multiples with one panel for each layer or measure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster import hierarchy

from mtf_switch.analysis.importance import Importance
from mtf_switch.analysis.layer_analysis import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_VALUE, _NULL = "tab:orange", "0.6"
_COLUMNS = 4
# With more columns than this, a heat map has no room for numbers.
_MAX_LABELS = 32


def shorten(layer: str) -> str:
    """Returns a short name of a layer: "enc 0.1" for encoder/block_000/layer_001."""
    stack, *parts = layer.split("/")
    names = [part.replace("block_", "").replace("layer_", "") for part in parts]
    numbers = [str(int(name)) if name.isdigit() else name for name in names]
    return f"{stack[:3]} {'.'.join(numbers)}"


def order_by_similarity(table: np.ndarray) -> np.ndarray:
    """Orders rows so that similar rows are neighbours: average linkage, optimal leaf order.

    Args:
      table: [rows, columns].
    """
    if len(table) < 3:
        return np.arange(len(table))
    tree = hierarchy.linkage(table, "average", optimal_ordering=True)
    return hierarchy.leaves_list(tree)


def _make_grid(figure: Figure, panels: int, width: float, height: float) -> list[Axes]:
    columns = min(_COLUMNS, panels)
    rows = math.ceil(panels / columns)
    figure.set_size_inches(width * columns, height * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes[panels:]:
        axis.set_visible(False)
    return axes[:panels]


def draw_measures(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws each measure by layer, with its interval, beside the range of its null model.

    Args:
      figure: An empty figure.
      rows: The rows of one checkpoint.
    """
    names = list(dict.fromkeys(row.measure for row in rows))
    layers = list(dict.fromkeys(row.layer for row in rows))
    for axis, name in zip(_make_grid(figure, len(names), 3.4, 2.6), names):
        of_measure = [row for row in rows if row.measure == name]
        x = np.array([layers.index(row.layer) for row in of_measure])
        tested = [row.tested for row in of_measure]
        low, high = (
            np.array([getattr(t, f"null_{end}") for t in tested]) for end in ("low", "high")
        )
        axis.vlines(x, low, high, color=_NULL, linewidth=9, label="null model, 95%")
        axis.hlines([t.null_mean for t in tested], x - 0.3, x + 0.3, color=_NULL, linewidth=3)
        value = np.array([t.value for t in tested])
        error = [value - [t.low for t in tested], [t.high for t in tested] - value]
        axis.errorbar(x, value, np.abs(error), fmt="o", color=_VALUE, label="model, 95%")
        axis.set_title(name, fontsize=10)
        axis.set_xticks(range(len(layers)), [shorten(layer) for layer in layers], fontsize=7)
        axis.set_xlim(-0.6, len(layers) - 0.4)
        if len(layers) > 4:
            axis.tick_params("x", rotation=90)
        axis.grid(axis="y", alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)


def draw_steps(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws measures against the steps of the checkpoints, with a line for each layer."""
    steps = sorted({row.step for row in rows})
    names = [
        name
        for name in dict.fromkeys(row.measure for row in rows)
        if len({row.step for row in rows if row.measure == name}) > 1
    ]
    for axis, name in zip(_make_grid(figure, len(names), 3.4, 2.8), names):
        for layer in dict.fromkeys(row.layer for row in rows):
            line = sorted(
                (row.step, row.tested.value, row.tested.null_mean)
                for row in rows
                if row.layer == layer and row.measure == name
            )
            x, value, null = zip(*line)
            (drawn,) = axis.plot(x, value, marker="o", label=shorten(layer))
            axis.plot(x, null, color=drawn.get_color(), linestyle=":")
        axis.set_title(f"{name} (null model dotted)", fontsize=9)
        axis.set_xlabel("step")
        axis.set_xlim(steps[0], steps[-1])
        axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="x-small")


def draw_heat_maps(
    figure: Figure, tables: Mapping[str, np.ndarray], labels: Sequence[str], what: str
) -> None:
    """Draws for each layer which labels go to which experts, more or less than by chance.

    A cell is log2 of the number of tokens over that of independence. Rows with few tokens are
    left out. Similar rows are neighbours, and similar experts too.

    Args:
      figure: An empty figure.
      tables: Layer -> [labels, E] int.
      labels: The names of the rows.
      what: What a row is.
    """
    axes = _make_grid(figure, len(tables), 4.2, 1.2 + 0.26 * len(labels))
    image = None
    for axis, (layer, table) in zip(axes, tables.items()):
        present = np.flatnonzero(table.sum(axis=1) >= 20)
        counts = table[present]
        expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / max(counts.sum(), 1)
        # Half a token on both sides keeps empty cells finite.
        lift = np.log2((counts + 0.5) / (expected + 0.5))
        rows, columns = order_by_similarity(lift), order_by_similarity(lift.T)
        image = axis.imshow(
            lift[rows][:, columns], aspect="auto", cmap="RdBu_r", vmin=-3, vmax=3
        )
        names = [str(labels[present[row]])[:24] for row in rows]
        axis.set_yticks(range(len(rows)), names, fontsize=7)
        if len(columns) <= _MAX_LABELS:
            axis.set_xticks(range(len(columns)), columns, fontsize=7)
        axis.set_xlabel("expert")
        axis.set_title(shorten(layer), fontsize=10)
    figure.colorbar(image, ax=axes, label=f"log2 of tokens / expected\n({what})", shrink=0.8)


def draw_load(figure: Figure, loads: Mapping[str, np.ndarray]) -> None:
    """Draws the load of the experts of each layer, over the even share."""
    for axis, (layer, load) in zip(_make_grid(figure, len(loads), 3.2, 2.2), loads.items()):
        axis.bar(range(len(load)), load * len(load), color=_VALUE, width=0.8)
        axis.axhline(1, color=_NULL)
        axis.set_title(shorten(layer), fontsize=10)
        axis.set_xlabel("expert")
        axis.set_ylabel("load / even share")


def draw_coactivation(figure: Figure, tables: Mapping[str, np.ndarray]) -> None:
    """Draws P(expert here | expert in the layer before) for each layer that has one before."""
    axes = _make_grid(figure, len(tables), 3.6, 3.2)
    image = None
    for axis, (layer, table) in zip(axes, tables.items()):
        rows, columns = order_by_similarity(table), order_by_similarity(table.T)
        image = axis.imshow(table[rows][:, columns], cmap="viridis", vmin=0, vmax=table.max())
        if len(columns) <= _MAX_LABELS:
            axis.set_xticks(range(len(columns)), columns, fontsize=7)
            axis.set_yticks(range(len(rows)), rows, fontsize=7)
        axis.set_title(f"to {shorten(layer)}", fontsize=10)
        axis.set_xlabel("expert here")
        axis.set_ylabel("expert before")
    figure.colorbar(image, ax=axes, label="P(here | before)", shrink=0.8)


def draw_importance(figure: Figure, rows: Sequence[Importance]) -> None:
    """Draws the loss without each expert, beside that without as many random tokens."""
    layers = list(dict.fromkeys(row.layer for row in rows))
    for axis, layer in zip(_make_grid(figure, len(layers), 3.8, 2.6), layers):
        of_layer = sorted((r for r in rows if r.layer == layer), key=lambda r: -r.loss)
        x = np.arange(len(of_layer))
        loss = np.array([row.loss for row in of_layer])
        error = [loss - [row.low for row in of_layer], [row.high for row in of_layer] - loss]
        axis.bar(
            x, loss, yerr=np.abs(error), color=_VALUE, ecolor="0.3", label="without expert"
        )
        axis.plot(
            x,
            [row.random for row in of_layer],
            "_",
            color="black",
            markersize=12,
            label="without as many random tokens",
        )
        axis.set_xticks(x, [row.expert for row in of_layer], fontsize=7)
        axis.set_title(shorten(layer), fontsize=10)
        axis.set_xlabel("expert")
        axis.set_ylabel("loss increase (nats)")
        axis.grid(axis="y", alpha=0.3)
    figure.axes[0].legend(fontsize="x-small")


def draw_drops(figure: Figure, shares: Mapping[str, np.ndarray]) -> None:
    """Draws the share of dropped tokens against the position in the example."""
    for axis, (layer, share) in zip(_make_grid(figure, len(shares), 3.2, 2.2), shares.items()):
        axis.plot(100 * share, color=_VALUE, marker=".")
        axis.set_ylim(bottom=0)
        axis.set_title(shorten(layer), fontsize=10)
        axis.set_xlabel("position in the example")
        axis.set_ylabel("dropped (%)")
        axis.grid(alpha=0.3)
