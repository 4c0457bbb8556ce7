"""Says in words, once each, when the routers of a training run go wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from scipy import stats

from mtf_switch.layers.router_metrics import RouterMetrics

# Steps over which the routing is added up before it is judged.
WINDOW = 100
# With fewer tokens for each expert in a window, an expert may have none by chance.
_MIN_TOKENS_PER_EXPERT = 20
# An expert is dead if its load is below this part of the even share.
_DEAD = 0.01
# A router has collapsed if its tokens go to fewer experts in effect than a quarter of E, or
# than 1.5. In effect, there are exp(entropy of the load) of them.
_COLLAPSED_SHARE, _COLLAPSED = 0.25, 1.5
# Routers are certain of every token if their mean entropy is below this share of log(E). In
# float32, logits then differ by ten or more.
_CERTAIN = 1e-3


class RouterAlarm:
    """Watches the routers of a training run."""

    def __init__(self):
        self._sums: dict[str, np.ndarray] = {}
        self._steps = 0
        self._said: set[tuple[str, str]] = set()

    def watch(self, step: int, sums: Mapping[str, np.ndarray]) -> list[str]:
        """Adds a step, and judges every hundredth one.

        Args:
          step: The number of the step.
          sums: Layer -> sums over its tokens, [6 + 2 E]; see `router_metrics`.

        Returns:
          Sentences about what is wrong now and was not said before; mostly none.
        """
        for layer, vector in sums.items():
            self._sums[layer] = self._sums.get(layer, 0) + np.asarray(vector, np.float64)
        self._steps += 1
        if self._steps < WINDOW:
            return []
        found = []
        for layer, vector in self._sums.items():
            for kind, sentence in _judge(RouterMetrics.from_sums(vector)):
                if (layer, kind) not in self._said:
                    self._said.add((layer, kind))
                    found.append(f"Step {step}, {layer}: {sentence}")
        self._sums, self._steps = {}, 0
        return found


def _judge(metrics: RouterMetrics) -> Iterator[tuple[str, str]]:
    """Yields (kind, sentence) for everything that is wrong with a layer's router."""
    experts = len(metrics.expert_load)
    if experts < 2 or metrics.tokens < _MIN_TOKENS_PER_EXPERT * experts:
        return
    busiest = int(metrics.expert_load.argmax())
    dead = np.flatnonzero(metrics.expert_load * experts < _DEAD)
    used = math.exp(stats.entropy(metrics.expert_load))
    if used < max(_COLLAPSED_SHARE * experts, _COLLAPSED):
        yield (
            "collapsed",
            f"the router has collapsed: the tokens of the last {WINDOW} steps went to "
            f"{used:.1f} of {experts} experts in effect, and "
            f"{metrics.expert_load[busiest]:.0%} of them to expert {busiest}. A larger "
            "aux_loss_coef of the router balances the load.",
        )
    elif dead.size:
        names = ", ".join(map(str, dead[:8])) + (", ..." if dead.size > 8 else "")
        yield (
            "dead",
            f"{dead.size} of {experts} experts ({names}) are dead: they were the first choice "
            f"of less than {_DEAD:.0%} of their even share of the tokens of the last {WINDOW} "
            "steps. A larger aux_loss_coef of the router balances the load.",
        )
    if metrics.entropy < _CERTAIN * math.log(experts):
        yield (
            "certain",
            f"the router is certain of every token: the mean entropy of its probabilities is "
            f"{metrics.entropy:.1e} of at most {math.log(experts):.2f} nats, so its logits "
            "have grown large and it hardly learns any more. A z_loss_coef of 0.001 keeps them "
            "small, and a lower learning rate may help.",
        )
