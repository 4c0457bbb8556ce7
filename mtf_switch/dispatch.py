"""Dispatch and combine: tokens to expert slots and back (Figures 15 and 16)."""

from __future__ import annotations

import dataclasses

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.router import Routing


@dataclasses.dataclass(frozen=True)
class EinsumDispatch:
    """The paper's dispatch: one-hot tensors, and a matrix product in each direction.

    Attributes:
      routing: what the router decided.
      experts_dim: E, by its unsplit name.
      capacity_dim: C.
    """

    routing: Routing
    experts_dim: mtf.Dimension
    capacity_dim: mtf.Dimension

    def dispatch(self, inputs: mtf.Tensor) -> mtf.Tensor:
        """Copies each kept token into its slot; empty slots hold zeros.

        Args:
          inputs: [O, G, S, M] in the activation dtype.

        Returns:
          expert_inputs: [O, E, G, C, M] in the activation dtype.
        """
        outer, groups, _, model = inputs.shape.dims
        return mtf.einsum(
            [inputs, self._dispatch_tensor(inputs.dtype)],
            [outer, self.experts_dim, groups, self.capacity_dim, model],
        )

    def combine(self, expert_outputs: mtf.Tensor) -> mtf.Tensor:
        """Brings each token's expert output back, times its gate (equation 2).

        Args:
          expert_outputs: [O, E, G, C, M] in the activation dtype.

        Returns:
          outputs: [O, G, S, M]; exactly zero for dropped tokens and padding.
        """
        outer, _, groups, _, model = expert_outputs.shape.dims
        group = self.routing.gate.shape.dims[-1]
        # Cast back before it meets activations or crosses cores (Section 2.4).
        gate = mtf.cast(self.routing.gate, expert_outputs.dtype)
        combine_tensor = self._dispatch_tensor(expert_outputs.dtype) * gate  # [O, G, S, E, C]
        return mtf.einsum([expert_outputs, combine_tensor], [outer, groups, group, model])

    def _dispatch_tensor(self, dtype: tf.DType) -> mtf.Tensor:
        """[O, G, S, E, C], 1 where a kept token has its slot.

        Made from the mask, not from the gates: a gate that underflows in bfloat16 does not
        lose its token a slot (ruling 12).
        """
        routing = self.routing
        expert = mtf.one_hot(routing.expert_index, self.experts_dim, dtype=dtype)
        slot = mtf.one_hot(routing.position_in_expert, self.capacity_dim, dtype=dtype)
        return mtf.cast(routing.kept, dtype) * expert * slot
