"""Dispatch and combine: tokens to their experts and back (Figures 15 and 16).

Three ways, with the same drops and the same results:

    EinsumDispatch  the paper's: one-hot tensors and two matrix products. For a TPU.
    GatherDispatch  the same slots, filled and emptied by index.
    SortDispatch    no slots: the tokens themselves, in the order of their experts.

An index map and its inverse carry tokens to one place and back, so that each one's gradient
is a gather by the other. A token that visits K experts is dispatched as K copies of itself, the
first choices of all tokens first, and what comes back is added up: N = K * S.
"""

from __future__ import annotations

import abc
import dataclasses
import functools

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.layers import dimensions
from mtf_switch.layers.router import Routing

AUTO, EINSUM, GATHER = "auto", "einsum", "gather"


@dataclasses.dataclass(frozen=True)
class _SlotDispatch(abc.ABC):
    """Tokens to the slots of experts and back.

    Attributes:
      routing: what the router decided.
      experts_dim: E, by its unsplit name.
      capacity_dim: C.
    """

    routing: Routing
    experts_dim: mtf.Dimension
    capacity_dim: mtf.Dimension

    @abc.abstractmethod
    def dispatch(self, inputs: mtf.Tensor) -> mtf.Tensor:
        """Copies each kept token into its slot; empty slots hold zeros.

        Args:
          inputs: [O, G, S, M] in the activation dtype.

        Returns:
          expert_inputs: [O, E, G, C, M] in the activation dtype.
        """

    @abc.abstractmethod
    def combine(self, expert_outputs: mtf.Tensor) -> mtf.Tensor:
        """Brings each token's expert output back, times its gate (equation 2).

        Args:
          expert_outputs: [O, E, G, C, M] in the activation dtype.

        Returns:
          outputs: [O, G, S, M]; exactly zero for dropped tokens and padding.
        """


class EinsumDispatch(_SlotDispatch):
    """The paper's dispatch: one-hot tensors, and a matrix product in each direction."""

    def dispatch(self, inputs: mtf.Tensor) -> mtf.Tensor:
        """See the base class."""
        outer, groups, _, model = inputs.shape.dims
        dispatch_tensor = _added_up(self._dispatch_tensor(inputs.dtype), self.routing.choices)
        return mtf.einsum(
            [inputs, dispatch_tensor],
            [outer, self.experts_dim, groups, self.capacity_dim, model],
            name="dispatch",
        )

    def combine(self, expert_outputs: mtf.Tensor) -> mtf.Tensor:
        """See the base class."""
        outer, _, groups, _, model = expert_outputs.shape.dims
        # Cast back before it meets activations or crosses cores (Section 2.4).
        gate = mtf.cast(self.routing.gate, expert_outputs.dtype)
        combine_tensor = self._dispatch_tensor(expert_outputs.dtype) * gate
        combine_tensor = _added_up(combine_tensor, self.routing.choices)  # [O, G, S, E, C]
        group = combine_tensor.shape.dims[2]
        return mtf.einsum(
            [expert_outputs, combine_tensor], [outer, groups, group, model], name="combine"
        )

    def _dispatch_tensor(self, dtype: tf.DType) -> mtf.Tensor:
        """[O, G, N, E, C], 1 where a kept token has its slot.

        Made from the mask, not from the gates: a gate that underflows in bfloat16 does not
        lose its token a slot (ruling 12).
        """
        routing = self.routing
        expert = mtf.one_hot(routing.expert_index, self.experts_dim, dtype=dtype)
        slot = mtf.one_hot(routing.position_in_expert, self.capacity_dim, dtype=dtype)
        return mtf.cast(routing.kept, dtype) * expert * slot


class GatherDispatch(_SlotDispatch):
    """The slots of EinsumDispatch, bit for bit, by index: no work for pairs that never meet."""

    def dispatch(self, inputs: mtf.Tensor) -> mtf.Tensor:
        """See the base class."""
        outer, groups, _, model = inputs.shape.dims
        tokens = _copies(inputs, self.routing.choices)
        slots = _move(tokens, self._token_of_slot, self._slot_of_token)
        slots = mtf.reshape(slots, [outer, groups, self.experts_dim, self.capacity_dim, model])
        return mtf.transpose(slots, [outer, self.experts_dim, groups, self.capacity_dim, model])

    def combine(self, expert_outputs: mtf.Tensor) -> mtf.Tensor:
        """See the base class."""
        outer, experts, groups, capacity, model = expert_outputs.shape.dims
        slots = mtf.transpose(expert_outputs, [outer, groups, experts, capacity, model])
        slots = mtf.reshape(slots, [outer, groups, self._slots_dim, model])
        outputs = _move(slots, self._slot_of_token, self._token_of_slot)
        return _weighted(outputs, self.routing)

    @property
    def _slots_dim(self) -> mtf.Dimension:
        return mtf.Dimension("slots", self.experts_dim.size * self.capacity_dim.size)

    @functools.cached_property
    def _slot_of_token(self) -> mtf.Tensor:
        """[O, G, N] int32, expert x C + position; -1 for a token without a slot."""
        routing = self.routing
        slot = routing.expert_index * self.capacity_dim.size + routing.position_in_expert
        return _where_kept(routing.kept, slot, otherwise=-1)

    @functools.cached_property
    def _token_of_slot(self) -> mtf.Tensor:
        """[O, G, E * C] int32, the token's place in its group; -1 for an empty slot."""
        slot_of_token, slots = self._slot_of_token, self._slots_dim

        def invert(slot_of_token):  # [o, g, N] of one core
            *shape, tokens = slot_of_token.shape.as_list()
            groups = int(np.prod(shape))
            slot = tf.reshape(slot_of_token, [groups, tokens])
            slot = tf.where(slot < 0, slot, slot + slots.size * tf.range(groups)[:, None])
            # Numbered from 1: what no token is added to stays 0. A negative slot is left out.
            token = tf.broadcast_to(tf.range(1, tokens + 1), [groups, tokens])
            token_of_slot = tf.math.unsorted_segment_sum(token, slot, groups * slots.size) - 1
            return tf.reshape(token_of_slot, [*shape, slots.size])

        return mtf.slicewise(
            invert,
            [slot_of_token],
            output_shape=mtf.Shape([*slot_of_token.shape.dims[:-1], slots]),
            output_dtype=tf.int32,
            splittable_dims=slot_of_token.shape.dims[:-1],
            grad_function=0,
            name="token_of_slot",
        )


@dataclasses.dataclass(frozen=True)
class SortDispatch:
    """Sorts each core's tokens by their expert, those without one last: no padding at all.

    Each expert then processes exactly the tokens that it has (see `Experts.apply_to_sorted`),
    so one core must hold everything.

    Attributes:
      routing: what the router decided.
      expert_of_token: [O, G, N] int32, the expert; E for a token without a slot.
      order: [O, G, N] int32, the token of each row, both numbered within their core.
      rank: [O, G, N] int32, its inverse: the row of each token.
    """

    routing: Routing
    expert_of_token: mtf.Tensor
    order: mtf.Tensor
    rank: mtf.Tensor

    @classmethod
    def from_routing(cls, routing: Routing, experts_dim: mtf.Dimension) -> SortDispatch:
        """From what the router decided for the experts E."""
        expert = _where_kept(routing.kept, routing.expert_index, otherwise=experts_dim.size)

        def sort(expert):
            order = tf.argsort(tf.reshape(expert, [-1]), stable=True)
            rank = tf.math.invert_permutation(order)
            return tf.reshape(order, expert.shape), tf.reshape(rank, expert.shape)

        order, rank = mtf.slicewise(
            sort,
            [expert],
            output_shape=[expert.shape, expert.shape],
            output_dtype=[tf.int32, tf.int32],
            splittable_dims=expert.shape.dims[:-1],
            grad_function=0,
            name="sort_by_expert",
        )
        return cls(routing, expert, order, rank)

    def dispatch(self, inputs: mtf.Tensor) -> mtf.Tensor:
        """Puts the tokens in the order of their experts.

        Args:
          inputs: [O, G, S, M] in the activation dtype.

        Returns:
          expert_inputs: [O, G, N, M]; a core's rows, in order, are one run of each expert's
            tokens after the other, and then the tokens without a slot.
        """
        return _permute(_copies(inputs, self.routing.choices), self.order, self.rank)

    def combine(self, expert_outputs: mtf.Tensor) -> mtf.Tensor:
        """Puts the rows back in the order of the tokens, times the gates (equation 2).

        Args:
          expert_outputs: [O, G, N, M] in the activation dtype, zeros after the last expert.

        Returns:
          outputs: [O, G, S, M]; exactly zero for dropped tokens and padding.
        """
        outputs = _permute(expert_outputs, self.rank, self.order)
        return _weighted(outputs, self.routing)


def _copies(inputs: mtf.Tensor, choices: int) -> mtf.Tensor:
    """[O, G, S, M] to [O, G, N, M]: all tokens once for each choice."""
    if choices == 1:
        return inputs
    outer, groups, group, model = inputs.shape.dims
    copies = mtf.broadcast(
        inputs, [outer, groups, dimensions.experts_per_token(choices), group, model]
    )
    return mtf.reshape(copies, [outer, groups, dimensions.group(choices * group.size), model])


def _added_up(x: mtf.Tensor, choices: int) -> mtf.Tensor:
    """[O, G, N, ...] to [O, G, S, ...]: what all choices of a token gave."""
    if choices == 1:
        return x
    outer, groups, assignments, *rest = x.shape.dims
    choices_dim = dimensions.experts_per_token(choices)
    group = dimensions.group(assignments.size // choices)
    by_choice = mtf.reshape(x, [outer, groups, choices_dim, group, *rest])
    return mtf.reduce_sum(by_choice, reduced_dim=choices_dim)


def _weighted(outputs: mtf.Tensor, routing: Routing) -> mtf.Tensor:
    """What the experts gave [O, G, N, M], times the gates, as [O, G, S, M] (equation 2)."""
    return _added_up(outputs * mtf.cast(routing.gate, outputs.dtype), routing.choices)


def _where_kept(kept: mtf.Tensor, values: mtf.Tensor, otherwise: int) -> mtf.Tensor:
    """int32 values where a token is kept, and another where it is not."""
    return mtf.cwise(
        lambda kept, values: tf.where_v2(kept > 0, values, otherwise),
        [kept, values],
        output_dtype=tf.int32,
        grad_function=0,
        name="where_kept",
    )


def _move(x: mtf.Tensor, source: mtf.Tensor, destination: mtf.Tensor) -> mtf.Tensor:
    """Fills places from others of the same group.

    Args:
      x: [O, G, N, M].
      source: [O, G, K] int32, from which of the N each of the K places is filled; -1 leaves
        it zero.
      destination: [O, G, N] int32, its inverse, -1 for what goes nowhere.

    Returns:
      [O, G, K, M]. Its gradient is the move by the inverse.
    """

    def take(x, source):
        rows = tf.gather(x, tf.maximum(source, 0), batch_dims=2)
        # Not a product with a mask: what a place leaves out may be infinite.
        return tf.where_v2(source[..., None] < 0, tf.zeros([], rows.dtype), rows)

    outer, groups, _, model = x.shape.dims
    return mtf.slicewise(
        take,
        [x, source],
        output_shape=mtf.Shape([*source.shape.dims, model]),
        output_dtype=x.dtype,
        splittable_dims=[outer, groups, model],
        grad_function=lambda op, dy: [_move(dy, destination, source), None],
        name="move",
    )


def _permute(x: mtf.Tensor, order: mtf.Tensor, inverse: mtf.Tensor) -> mtf.Tensor:
    """Reorders the tokens of each core.

    Args:
      x: [O, G, S, M].
      order: [O, G, S] int32, which row of x each row takes, numbered within the core.
      inverse: [O, G, S] int32, of that permutation.

    Returns:
      [O, G, S, M]. Its gradient is the inverse permutation.
    """

    def take(x, order):
        tokens = tf.reshape(x, [-1, x.shape[-1]])
        return tf.reshape(tf.gather(tokens, tf.reshape(order, [-1])), x.shape)

    return mtf.slicewise(
        take,
        [x, order],
        output_dtype=x.dtype,
        splittable_dims=[*x.shape.dims[:2], x.shape.dims[-1]],
        grad_function=lambda op, dy: [_permute(dy, inverse, order), None],
        name="permute",
    )
