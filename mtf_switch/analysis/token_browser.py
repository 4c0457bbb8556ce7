"""A self-contained HTML page that shows texts, each token colored by its expert.

The texts are data: they reach the page as JSON inside a script element that no browser runs,
and become text nodes, never markup. token_browser.html is the page without them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mtf_switch.analysis.plots import shorten
from mtf_switch.analysis.routing_trace import RoutingTrace, segment_of

EXAMPLES = 100

_PAGE = Path(__file__).with_suffix(".html")


def make_page(trace: RoutingTrace) -> str:
    """Returns the HTML page of the last checkpoint of a trace.

    It shows the first 100 examples. A token is one that the stack reads. In a decoder, that is
    the target before the one that it has to predict.

    Args:
      trace: The trace.
    """
    info = trace.info
    step = info.steps[-1]
    segments: dict[str, Any] = {}
    layers = []
    for layer, experts in info.experts.items():
        segment = segment_of(layer)
        example = trace.column(step, segment, "example")
        cuts = np.flatnonzero(np.diff(example)) + 1
        if segment not in segments:
            segments[segment] = _list_examples(trace, step, segment, example, cuts)
        kept = trace.column(step, segment, f"kept/{layer}")
        gates = trace.column(step, segment, f"gate/{layer}")[:, 0]
        values = {
            "expert": trace.first_choice(step, layer),
            "gate": np.round(gates.astype(np.float64), 3),
            "dropped": (~kept.any(axis=1)).astype(int),
        }
        columns = {
            name: [part.tolist() for part in np.split(column, cuts)[:EXAMPLES]]
            for name, column in values.items()
        }
        layers.append(
            {"name": shorten(layer), "segment": segment, "experts": experts, **columns}
        )
    shown = {token for part in segments.values() for one in part for token in one["ids"]}
    content = {
        "about": _describe(trace, step),
        "domains": info.domains,
        "pieces": {token: info.pieces[token] for token in sorted(shown)},
        "segments": segments,
        "layers": layers,
    }
    return _PAGE.read_text(encoding="utf-8").replace("@DATA@", escape_json(content))


def escape_json(content: Any) -> str:
    """Returns JSON that can stand inside a script element: no "<", ">" or "&" is left in it."""
    text = json.dumps(content, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _list_examples(
    trace: RoutingTrace, step: int, segment: str, example: np.ndarray, cuts: np.ndarray
) -> list[dict[str, Any]]:
    columns = [trace.column(step, segment, name) for name in ("token", "domain")]
    parts = [np.split(column, cuts)[:EXAMPLES] for column in (example, *columns)]
    return [
        {"number": int(number[0]), "domain": int(domain[0]), "ids": ids.tolist()}
        for number, ids, domain in zip(*parts)
    ]


def _describe(trace: RoutingTrace, step: int) -> str:
    request = trace.info.request
    return (
        f"{os.path.basename(trace.info.model)} at step {step}, on {request['task']} "
        f"({request['split']}): the first {EXAMPLES} examples. A token has the color of the "
        "expert that it chose first. A wavy line marks a token that the layer dropped. Colors "
        "and numbers mean nothing across layers."
    )
