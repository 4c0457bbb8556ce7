"""Exploration: how a router strays from its best guess in training (Appendix C, Table 11).

A router that always takes its best guess never learns what another expert would have done.
Nothing here acts outside of training, and all of it is on the router's own copy of its input
(ruling 1): the experts see what they would have seen. The noise is a function of the seed, the
layer and the global step, so a resumed run sees the noise of an uninterrupted one.
"""

from __future__ import annotations

import dataclasses

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.errors import UserError

ARGMAX = "argmax"
SAMPLE_SOFTMAX = "sample_softmax"
INPUT_DROPOUT = "input_dropout"
INPUT_JITTER = "input_jitter"
POLICIES = (ARGMAX, SAMPLE_SOFTMAX, INPUT_DROPOUT, INPUT_JITTER)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Exploration:
    """One of Table 11's four policies.

    Attributes:
      policy: "argmax", no noise; "sample_softmax", experts drawn from the router's
        distribution; "input_dropout" or "input_jitter", noise on the router's input. Jitter
        is best in Table 11, and the paper's choice.
      jitter: eps of U(1 - eps, 1 + eps), by which the router's input is multiplied.
      dropout: share of the router's input that is set to zero; the rest is scaled up.
      temperature: of the distribution that is sampled; towards 0 it is argmax.

    Raises:
      UserError: for an unknown policy, or a value that is none.
    """

    policy: str = INPUT_JITTER
    jitter: float = 0.01
    dropout: float = 0.1
    temperature: float = 1.0

    def __post_init__(self):
        if self.policy not in POLICIES:
            valid = ", ".join(map(repr, POLICIES))
            raise UserError(
                f"Exploration.policy is {self.policy!r}, but Table 11's policies are {valid}."
            )
        for name, paper in (("jitter", 0.01), ("dropout", 0.1)):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"Exploration.{name} is {getattr(self, name)}, but it is at least 0 and "
                    f"below 1; the paper's is {paper}."
                )
        if not self.temperature > 0:
            raise UserError(
                f"Exploration.temperature is {self.temperature}, but it is above 0. "
                f"Exploration.policy = {ARGMAX!r} samples nothing."
            )

    def perturb(self, router_inputs: mtf.Tensor, train: bool) -> mtf.Tensor:
        """Noise on the router's input.

        Args:
          router_inputs: [O, G, S, M], the router's copy.
          train: whether to explore.

        Returns:
          A tensor like router_inputs.
        """
        if train and self.policy == INPUT_JITTER:
            return mtf.layers.multiplicative_jitter(router_inputs, self.jitter)
        if train and self.policy == INPUT_DROPOUT:
            return mtf.dropout(router_inputs, train, rate=self.dropout)
        return router_inputs

    def score_experts(
        self, router_logits: mtf.Tensor, router_probs: mtf.Tensor, train: bool
    ) -> mtf.Tensor:
        """What ranks the experts of a token: the highest score is its first choice.

        With Gumbel noise on the logits the first choice is a sample of the softmax, and the
        k highest are k samples without replacement.

        Args:
          router_logits: [O, G, S, E] float32.
          router_probs: [O, G, S, E] float32, their softmax.
          train: whether to explore.

        Returns:
          [O, G, S, E] float32.
        """
        if not train or self.policy != SAMPLE_SOFTMAX:
            return router_probs
        # The logarithms of 0 and of 1 have none.
        uniform = mtf.random_uniform(
            router_logits.mesh, router_logits.shape, minval=1e-9, maxval=1.0, dtype=tf.float32
        )
        gumbel = -mtf.log(-mtf.log(uniform))
        return mtf.stop_gradient(router_logits * (1 / self.temperature) + gumbel)
