"""Hand-made tokens of one layer, whose measures are known."""

from __future__ import annotations

import numpy as np

from mtf_switch.analysis import token_kinds
from mtf_switch.analysis.layer_tokens import LayerTokens

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
