"""Hand-made tokens of layers, whose measures are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mtf_switch.analysis import routing_trace, token_kinds
from mtf_switch.analysis.layer_tokens import LayerTokens
from mtf_switch.analysis.routing_trace import RoutingTrace, TraceInfo

EXPERTS, EXAMPLES, LENGTH, IDS, DOMAINS = 4, 60, 20, 12, 3


def make_tokens(rule: str = "uniform", seed: int = 0, **changes: np.ndarray) -> LayerTokens:
    """Makes tokens of EXAMPLES examples of LENGTH positions.

    Args:
      rule: What decides the expert: "uniform" for chance, or "id", "position" or "domain".
      seed: Seed of ids, kinds, domains and chance.
      **changes: Arrays [tokens] in place of others.
    """
    rng = np.random.default_rng(seed)
    example, position = (x.ravel() for x in np.indices((EXAMPLES, LENGTH)))
    token = rng.integers(3, 3 + IDS, example.size)
    domain = rng.integers(DOMAINS, size=EXAMPLES)[example]
    expert = {
        "uniform": rng.integers(EXPERTS, size=example.size),
        "id": token % EXPERTS,
        "position": position % EXPERTS,
        "domain": domain % EXPERTS,
    }[rule]
    arrays = {
        "expert": expert,
        "gate": rng.random(example.size),
        "dropped": rng.random(example.size) < 0.1,
        "token": token,
        "target": rng.integers(0, 3 + IDS, example.size),
        "kind": token % len(token_kinds.KINDS),
        "domain": domain,
        "example": example,
        "position": position,
        "place_in_group": position + LENGTH * (example % 2),
        "before": rng.integers(EXPERTS, size=example.size),
        "last": rng.integers(EXPERTS, size=example.size),
    }
    return LayerTokens(num_experts=EXPERTS, **{**arrays, **changes})


def write_trace(
    folder: Path,
    steps: Mapping[int, Mapping[str, LayerTokens]],
    pieces: Mapping[int, str] = {},
) -> RoutingTrace:
    """Writes a trace of an encoder.

    Args:
      folder: The folder.
      steps: Step -> layer -> its tokens.
      pieces: Texts of ids in place of others.
    """
    for step, layers in steps.items():
        (folder / f"step-{step}").mkdir(parents=True)
        writer = routing_trace.SegmentWriter(str(folder / f"step-{step}"), "encoder")
        any_layer = next(iter(layers.values()))
        columns = {
            **{n: getattr(any_layer, n) for n in ("token", "target", "example", "position")},
            "domain": any_layer.domain,
            "loss": np.zeros(len(any_layer)),
            "row": any_layer.example % 4,
        }
        for layer, tokens in layers.items():
            columns[f"expert/{layer}"] = tokens.expert[:, None]
            columns[f"gate/{layer}"] = tokens.gate[:, None]
            columns[f"kept/{layer}"] = ~tokens.dropped[:, None]
        writer.add(columns)
        writer.close()
    texts = {token: f"▁word{token}" for token in range(3 + IDS)}
    info = TraceInfo(
        model=str(folder),
        weights={step: "0" * 64 for step in steps},
        request={"task": "made", "split": "validation", "tokens": 1000},
        domains=[f"domain {number}" for number in range(DOMAINS)],
        batch_size=4,
        lengths={"encoder": LENGTH},
        experts=dict.fromkeys(layers, EXPERTS),
        group_sizes=dict.fromkeys(layers, 2 * LENGTH),
        tokens={"encoder": writer.tokens},
        pieces={**texts, **pieces},
        digest=writer.digest,
        routers={step: {layer: {"entropy": 1.0} for layer in layers} for step in steps},
        tokens_per_file=routing_trace.TOKENS_PER_FILE,
    )
    routing_trace.write_info(str(folder), info)
    return RoutingTrace.open(str(folder))
