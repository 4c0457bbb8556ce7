"""Exploration: how a router deviates from its best guess in training (Appendix C, Table 11).

A router that always takes its best guess never learns how well another expert would have done.
Exploration acts in training only, and only on the router's own copy of its input (ruling 1 in
docs/fidelity.md): the experts see the tokens without noise. The noise depends on the seed, the
layer and the global step, so a resumed run sees the same noise as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch import value_rules
from mtf_switch.errors import UserError

Policy = Literal["argmax", "sample_softmax", "input_dropout", "input_jitter"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
_RULES = value_rules.declare(
    "Exploration",
    jitter=value_rules.number(0, below=1, advice="The paper uses 0.01."),
    dropout=value_rules.number(0, below=1, advice="The paper uses 0.1."),
    temperature=value_rules.number(
        above=0, advice="To sample nothing, set Exploration.policy = 'argmax'."
    ),
)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Exploration:
    """One of the four policies of Table 11.

    Attributes:
      policy: "argmax" adds no noise; "sample_softmax" draws experts from the router's
        distribution; "input_dropout" and "input_jitter" add noise to the router's input.
        Jitter is the best in Table 11 and the paper's choice.
      jitter: The eps of the factor U(1 - eps, 1 + eps) on the router's input.
      dropout: The share of the router's input that is set to zero; the rest is scaled up.
      temperature: Temperature of the distribution from which "sample_softmax" draws. As it
        approaches 0, the policy becomes "argmax".

    Raises:
      UserError: For an unknown policy, or a value out of its range.
    """

    policy: Policy = "input_jitter"
    jitter: float = 0.01
    dropout: float = 0.1
    temperature: float = 1.0

    def __post_init__(self):
        if self.policy not in POLICIES:
            valid = ", ".join(map(repr, POLICIES))
            raise UserError(
                f"Exploration.policy is {self.policy!r}, but Table 11's policies are {valid}."
            )
        value_rules.check_all("Exploration", _RULES, vars(self))

    def perturb(self, router_inputs: mtf.Tensor, train: bool) -> mtf.Tensor:
        """Adds noise to the router's input if the policy does so.

        Args:
          router_inputs: [O, G, S, M], the router's own copy.
          train: Whether this is training; otherwise nothing is added.

        Returns:
          [O, G, S, M] in the dtype of router_inputs.
        """
        if train and self.policy == "input_jitter":
            return mtf.layers.multiplicative_jitter(router_inputs, self.jitter)
        if train and self.policy == "input_dropout":
            return mtf.dropout(router_inputs, train, rate=self.dropout)
        return router_inputs

    def samples_experts(self, train: bool) -> bool:
        """Whether experts are drawn at random, rather than chosen by their probability."""
        return train and self.policy == "sample_softmax"

    def sample_scores(self, router_logits: mtf.Tensor) -> mtf.Tensor:
        """Draws scores whose maximum is a sample from the softmax.

        The scores are the logits plus Gumbel noise. The k highest scores are k samples without
        replacement.

        Args:
          router_logits: [O, G, S, E] float32.

        Returns:
          [O, G, S, E] float32, without a gradient.
        """
        # The range excludes 0 and 1, where -log(-log(x)) is infinite.
        uniform = mtf.random_uniform(
            router_logits.mesh, router_logits.shape, minval=1e-9, maxval=1.0, dtype=tf.float32
        )
        gumbel = -mtf.log(-mtf.log(uniform))
        return mtf.stop_gradient(router_logits * (1 / self.temperature) + gumbel)
