"""The Markdown page of `run_switch.py experts`, and the table that the command prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mtf_switch import machine, report
from mtf_switch.analysis import null_models, trace_analysis, typical_tokens
from mtf_switch.analysis.layer_analysis import Row
from mtf_switch.analysis.plots import shorten
from mtf_switch.analysis.routing_trace import TraceInfo
from mtf_switch.analysis.trace_analysis import Analysis

_TYPICAL = 8
# Plot -> what it shows.
_CAPTIONS = {
    "measures.png": "Every measure by layer. Gray is the null model: a dot inside it says "
    "nothing.",
    "steps.png": f"Over the checkpoints: {', '.join(trace_analysis.OF_EARLIER_STEPS)}. The "
    "other measures are of the last checkpoint only.",
    "load.png": "Load of the experts.",
    "kinds.png": "Kinds of tokens: red cells get more tokens than under the null model, blue "
    "ones fewer. Similar rows and similar experts are neighbours.",
    "domains.png": "Domains, in the same way.",
    "coactivation.png": "Which expert follows which: P(expert here, given the expert in the "
    "Switch layer before).",
    "drops.png": "Share of dropped tokens by position.",
    "importance.png": "Increase of the loss without each expert; the black mark is that "
    "without as many random tokens.",
}
# Mean entropies of sentinels in Table 14 of ST-MoE: 32 experts, six sparse layers per stack.
_ST_MOE = {"encoder": "2.2, 1.8, 1.6, 1.7, 1.7, 1.2", "decoder": "3.4 in all six"}


def format_summary(analysis: Analysis) -> str:
    """Formats the measures of the last checkpoint for the screen."""
    info = analysis.info
    counts = ", ".join(f"{count:,} in the {stack}" for stack, count in info.tokens.items())
    lines = [
        f"task                {info.request['task']} ({info.request['split']})",
        f"steps               {', '.join(map(str, info.steps))}",
        f"tokens              {counts}",
        *_list_changes(info, "changed             "),
        "",
        f"{'layer':12s} {'measure':28s} {'value':>8s}  {'null model, 95%':>19s}  q",
    ]
    for row in _last_rows(analysis):
        t = row.tested
        lines.append(
            f"{shorten(row.layer):12s} {row.measure:28s} {t.value:8.4f}  "
            f"{f'{t.null_low:.4f} to {t.null_high:.4f}':>19s}  {_format_q(row)}"
        )
    return "\n".join(lines)


def _list_changes(info: TraceInfo, label: str) -> list[str]:
    """Names the bindings by which the model differs from its config.gin, if there are any."""
    changes = info.request.get("changed_bindings")
    return (
        [label + ", ".join(f"{n} = {value}" for n, value in changes.items())] if changes else []
    )


def format_page(analysis: Analysis, plots: Sequence[str], command: str) -> str:
    """Formats experts.md.

    Args:
      analysis: The analysis.
      plots: The files of the plots.
      command: The command line.
    """
    lines = [
        "# Which token goes to which expert",
        "",
        *_describe_trace(analysis),
        "",
        "[tokens.html](tokens.html) shows the texts, each token colored by its expert. Open it "
        "in a browser.",
        "",
    ]
    for plot in plots:
        lines += [f"![{plot.removesuffix('.png')}]({plot})", "", _CAPTIONS[plot], ""]
    lines += ["## Measures at the last checkpoint", "", _format_measures(analysis), ""]
    lines += ["## Experts", "", *_format_layers(analysis)]
    lines += _format_sentinels(analysis)
    lines += _format_importance(analysis)
    lines += _format_matchings(analysis)
    lines += [f"Made by `{command}` on {machine.describe()}.", ""]
    return "\n".join(lines)


def _describe_trace(analysis: Analysis) -> list[str]:
    info = analysis.info
    counts = " and ".join(
        f"{count:,} tokens of the {stack}" for stack, count in info.tokens.items()
    )
    return [
        f"Steps {', '.join(map(str, info.steps))} of a model with "
        f"{len(info.experts)} Switch layers read {counts}, from the split "
        f"{info.request['split']} of {info.request['task']}. Targets were given, as in `eval`. "
        "The expert of a token is the one that it chose first, before capacity.",
        "",
        *(f"{line}\n" for line in _list_changes(info, "Changed bindings: ")),
        f"Each number stands beside its null model: {null_models.DRAWS} draws in which the "
        "experts of the layer's tokens are permuted, so that the load stays the same. For the "
        "measures of the load itself, each token draws any expert with the same probability. "
        "The interval of a number comes from a jackknife of the examples. q is the p-value "
        "after the correction of Benjamini and Hochberg. A small q says that a number differs "
        "from its null model, not that the difference matters: for that, compare value and "
        "null model.",
    ]


def _last_rows(analysis: Analysis) -> Iterator[Row]:
    last = analysis.info.steps[-1]
    return (row for row in analysis.rows if row.step == last)


def _format_q(row: Row) -> str:
    return "-" if math.isnan(row.q_value) else f"{row.q_value:.3f}"


def _format_measures(analysis: Analysis) -> str:
    heads = ["layer", "measure", "value [95%]", "null model: kind, mean [95%]", "excess", "q"]
    rows = []
    for row in _last_rows(analysis):
        t = row.tested
        rows.append(
            [
                *(shorten(row.layer), row.measure),
                f"{t.value:.4f} [{t.low:.4f}, {t.high:.4f}]",
                f"{t.null}: {t.null_mean:.4f} [{t.null_low:.4f}, {t.null_high:.4f}]",
                *(f"{t.excess:+.4f}", _format_q(row)),
            ]
        )
    return report.format_table(heads, rows)


def list_typical(
    analysis: Analysis, layer: str, expert: int, number: int
) -> list[dict[str, Any]]:
    """Lists the typical tokens of an expert: piece, count, lift, q-value."""
    ids = analysis.layers[layer].ids
    return [
        {
            "id": int(ids.labels[row]),
            "piece": analysis.info.pieces[int(ids.labels[row])],
            "count": int(ids.counts[row, expert]),
            "lift": float(ids.lift[row, expert]),
            "q_value": float(ids.q_value[row, expert]),
        }
        for row in ids.typical(expert, number)
    ]


def _format_layers(analysis: Analysis) -> list[str]:
    lines = [
        "Typical tokens go to the expert more often than its load explains (q at most "
        f"{typical_tokens.MAX_Q}); they are ordered by lift, the share of the token that goes "
        "to the expert over the even share. The number of occurrences follows.",
        "",
    ]
    for layer, result in analysis.layers.items():
        low, middle, high = result.gate
        lines += [
            f"### {layer}",
            "",
            f"Gate of the first choice: median {middle:.3f}, 90% between {low:.3f} and "
            f"{high:.3f}. Entropy of the router: {result.entropy:.3f} of at most "
            f"{math.log(len(result.load)):.3f} nats. Dropped: {result.dropped:.2%}.",
            "",
            _format_experts(analysis, layer, result.load),
            "",
        ]
    return lines


def _format_experts(analysis: Analysis, layer: str, load: np.ndarray) -> str:
    rows = []
    for expert, share in enumerate(load):
        typical = ", ".join(
            f"{escape_piece(token['piece'])} {token['count']}"
            for token in list_typical(analysis, layer, expert, _TYPICAL)
        )
        rows.append([f"{expert}", f"{share * len(load):.2f}", typical or "-"])
    return report.format_table(["expert", "load / even share", "typical tokens"], rows)


def escape_piece(piece: str) -> str:
    """Returns a piece as code that Markdown shows as it is, in a table as well."""
    safe = "".join(c if c.isalnum() or ord(c) > 127 else f"&#{ord(c)};" for c in piece)
    return f"<code>{safe}</code>"


def _format_sentinels(analysis: Analysis) -> list[str]:
    rows = list(trace_analysis.find_rows(analysis, "sentinel entropy (nats)"))
    if not rows:
        return []
    experts = analysis.info.experts
    cells = []
    for stack, others in _ST_MOE.items():
        own = [row for row in rows if row.layer.startswith(stack)]
        values = ", ".join(f"{row.tested.value:.2f}" for row in own)
        uniform = ", ".join(dict.fromkeys(f"{math.log(experts[row.layer]):.2f}" for row in own))
        cells.append([stack, values or "-", uniform or "-", others])
    heads = ["stack", "this model, by layer", "uniform", "ST-MoE, by layer"]
    return [
        "## Sentinels beside ST-MoE",
        "",
        "Entropy of the experts that sentinels visit, in nats (ST-MoE, Table 14: 32 experts, "
        "where uniform is 3.5).",
        "",
        report.format_table(heads, cells),
        "",
    ]


def _format_importance(analysis: Analysis) -> list[str]:
    if not analysis.importance:
        return []
    heads = ["layer", "expert", "visits", "without it [95%]", "random tokens"]
    rows = [
        [
            *(shorten(row.layer), f"{row.expert}", f"{row.load:.1%}"),
            f"{row.loss:+.4f} [{row.low:+.4f}, {row.high:+.4f}]",
            *(f"{row.random:+.4f}", f"{row.q_value:.3f}"),
        ]
        for row in analysis.importance
    ]
    lines = [
        "## Importance",
        "",
        "Increase of the loss, in nats per target token, if the tokens of an expert pass the "
        "layer by its residual connection; beside it, if as many random tokens do.",
        "",
        report.format_table([*heads, "q of the difference"], rows),
    ]
    loads = np.array([row.load for row in analysis.importance])
    losses = np.array([row.loss for row in analysis.importance])
    if len(losses) > 2 and loads.std() and losses.std():
        lines += [
            "",
            f"Correlation of visits and loss: {np.corrcoef(loads, losses)[0, 1]:+.2f}.",
        ]
    return [*lines, ""]


def _format_matchings(analysis: Analysis) -> list[str]:
    if not analysis.matchings:
        return []
    rows = []
    for one in analysis.matchings:
        t = one.agreement
        rows.append(
            [
                shorten(one.layer),
                f"{t.value:.3f} [{t.low:.3f}, {t.high:.3f}]",
                f"{t.null_mean:.3f} [{t.null_low:.3f}, {t.null_high:.3f}]",
                ", ".join(f"{own}-{other}" for own, other in one.partner),
            ]
        )
    heads = ["layer", "agreement [95%]", "null model [95%]", "matches"]
    return [
        "## Experts beside those of the other model",
        "",
        "Share of the tokens that go to matched experts: 1 if the models are equal up to the "
        "numbers of their experts.",
        "",
        report.format_table(heads, rows),
        "",
    ]
