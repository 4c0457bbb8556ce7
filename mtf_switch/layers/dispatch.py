"""Dispatch and combine: tokens to their experts and back (Figures 15 and 16).

Three algorithms drop the same tokens and give the same results:

    EinsumDispatch  "einsum"  The paper's: one-hot tensors and two matrix products.
    GatherDispatch  "gather"  The same slots, filled and emptied by index.
    SortDispatch    "sort"    No slots: the tokens themselves, sorted by expert.

`dispatch_method` chooses among them.

An index map moves the tokens, and its inverse moves them back. The gradient of each move is
therefore a gather by the other map. A token that visits K experts is dispatched as K copies,
the first choices of all tokens first, and the K outputs are summed. Rulings are explained in
docs/fidelity.md.
"""

from __future__ import annotations

import abc
import dataclasses
import functools

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.layers import dimensions
from mtf_switch.layers.routing import Routing


@dataclasses.dataclass(frozen=True)
class _SlotDispatch(abc.ABC):
    """Carries tokens to the slots of experts and back.

    Attributes:
      routing: The router's decisions.
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
        """Moves expert outputs back to their tokens, times the gates (equation 2).

        Args:
          expert_outputs: [O, E, G, C, H] in the activation dtype.

        Returns:
          outputs: [O, G, S, H]; exactly zero for dropped tokens and padding.
        """


class EinsumDispatch(_SlotDispatch):
    """The paper's dispatch: one-hot tensors, and a matrix product in each direction."""

    def dispatch(self, inputs: mtf.Tensor) -> mtf.Tensor:
        """See the base class."""
        outer, groups, _, model = inputs.shape.dims
        dispatch_tensor = _sum_over_choices(
            self._dispatch_tensor(inputs.dtype), self.routing.experts_per_token
        )
        return mtf.einsum(
            [inputs, dispatch_tensor],
            [outer, self.experts_dim, groups, self.capacity_dim, model],
            name="dispatch",
        )

    def combine(self, expert_outputs: mtf.Tensor) -> mtf.Tensor:
        """See the base class."""
        outer, _, groups, _, model = expert_outputs.shape.dims
        # The gate is cast before it meets activations or crosses cores (Section 2.4).
        gate = mtf.cast(self.routing.gate, expert_outputs.dtype)
        combine_tensor = self._dispatch_tensor(expert_outputs.dtype) * gate
        combine_tensor = _sum_over_choices(
            combine_tensor, self.routing.experts_per_token
        )  # [O, G, S, E, C]
        group = combine_tensor.shape.dims[2]
        return mtf.einsum(
            [expert_outputs, combine_tensor], [outer, groups, group, model], name="combine"
        )

    def _dispatch_tensor(self, dtype: tf.DType) -> mtf.Tensor:
        """Returns [O, G, N, E, C], 1 where a kept token has its slot.

        It is made from the mask and not from the gates, so a token whose gate underflows in
        bfloat16 keeps its slot (ruling 12).
        """
        routing = self.routing
        expert = mtf.one_hot(routing.expert_index, self.experts_dim, dtype=dtype)
        slot = mtf.one_hot(routing.position_in_expert, self.capacity_dim, dtype=dtype)
        return mtf.cast(routing.kept, dtype) * expert * slot


class GatherDispatch(_SlotDispatch):
    """Fills the same slots as EinsumDispatch, bit for bit, by index instead of by products."""

    def dispatch(self, inputs: mtf.Tensor) -> mtf.Tensor:
        """See the base class."""
        outer, groups, _, model = inputs.shape.dims
        tokens = _copy_for_each_choice(inputs, self.routing.experts_per_token)
        expert_inputs = _move_rows(tokens, self._token_of_slot, self._slot_of_token)
        expert_inputs = mtf.reshape(
            expert_inputs, [outer, groups, self.experts_dim, self.capacity_dim, model]
        )
        return mtf.transpose(
            expert_inputs, [outer, self.experts_dim, groups, self.capacity_dim, model]
        )

    def combine(self, expert_outputs: mtf.Tensor) -> mtf.Tensor:
        """See the base class."""
        outer, experts, groups, capacity, model = expert_outputs.shape.dims
        outputs = mtf.transpose(expert_outputs, [outer, groups, experts, capacity, model])
        outputs = mtf.reshape(outputs, [outer, groups, self._all_slots_dim, model])
        outputs = _move_rows(outputs, self._slot_of_token, self._token_of_slot)
        return _combine_choices(outputs, self.routing)

    @property
    def _all_slots_dim(self) -> mtf.Dimension:
        """E * C: the slots of all experts."""
        return mtf.Dimension("slots", self.experts_dim.size * self.capacity_dim.size)

    @functools.cached_property
    def _slot_of_token(self) -> mtf.Tensor:
        """The slot of each token: [O, G, N] int32, expert x C + position, or -1 without one."""
        routing = self.routing
        slot = routing.expert_index * self.capacity_dim.size + routing.position_in_expert
        return _select_kept(routing.kept, slot, otherwise=-1)

    @functools.cached_property
    def _token_of_slot(self) -> mtf.Tensor:
        """The token in each slot: [O, G, E * C] int32, its index among the N; -1 if empty."""
        slot_of_token, slots = self._slot_of_token, self._all_slots_dim

        def invert(slot_of_token):  # [o, g, N] of one core
            *shape, tokens = slot_of_token.shape.as_list()
            groups = int(np.prod(shape))
            slot = tf.reshape(slot_of_token, [groups, tokens])
            slot = tf.where(slot < 0, slot, slot + slots.size * tf.range(groups)[:, None])
            # Tokens are numbered from 1, because the sum for an empty slot is 0. The sum
            # ignores negative slots.
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
    """Sorts each core's tokens by expert, with tokens without a slot last.

    There are no empty slots: each expert processes exactly its own tokens (see
    `Experts.apply_to_sorted`). One core must therefore hold everything.

    Attributes:
      routing: The router's decisions.
      expert_of_token: [O, G, N] int32, the expert; E for a token without a slot.
      token_of_row: [O, G, N] int32, the token in each sorted row. Tokens and rows are numbered
        within their core.
      row_of_token: [O, G, N] int32, the inverse: the sorted row of each token.
    """

    routing: Routing
    expert_of_token: mtf.Tensor
    token_of_row: mtf.Tensor
    row_of_token: mtf.Tensor

    @classmethod
    def from_routing(cls, routing: Routing, experts_dim: mtf.Dimension) -> SortDispatch:
        """Sorts the tokens of a Routing among the experts E."""
        expert = _select_kept(routing.kept, routing.expert_index, otherwise=experts_dim.size)

        def sort(expert):
            token_of_row = tf.argsort(tf.reshape(expert, [-1]), stable=True)
            row_of_token = tf.math.invert_permutation(token_of_row)
            return tf.reshape(token_of_row, expert.shape), tf.reshape(
                row_of_token, expert.shape
            )

        token_of_row, row_of_token = mtf.slicewise(
            sort,
            [expert],
            output_shape=[expert.shape, expert.shape],
            output_dtype=[tf.int32, tf.int32],
            splittable_dims=expert.shape.dims[:-1],
            grad_function=0,
            name="sort_by_expert",
        )
        return cls(routing, expert, token_of_row, row_of_token)

    def dispatch(self, inputs: mtf.Tensor) -> mtf.Tensor:
        """Sorts the tokens by expert.

        Args:
          inputs: [O, G, S, M] in the activation dtype.

        Returns:
          expert_inputs: [O, G, N, M]. The rows of a core are first the tokens of expert 0, then
            those of expert 1, and so on, and last the tokens without a slot.
        """
        tokens = _copy_for_each_choice(inputs, self.routing.experts_per_token)
        return _permute_rows(tokens, self.token_of_row, self.row_of_token)

    def combine(self, expert_outputs: mtf.Tensor) -> mtf.Tensor:
        """Moves the rows back to the order of the tokens, times the gates (equation 2).

        Args:
          expert_outputs: [O, G, N, H] in the activation dtype, zeros after the last expert.

        Returns:
          outputs: [O, G, S, H]; exactly zero for dropped tokens and padding.
        """
        outputs = _permute_rows(expert_outputs, self.row_of_token, self.token_of_row)
        return _combine_choices(outputs, self.routing)


def _copy_for_each_choice(inputs: mtf.Tensor, experts_per_token: int) -> mtf.Tensor:
    """[O, G, S, M] to [O, G, N, M]: copies all tokens once for each of their K choices."""
    if experts_per_token == 1:
        return inputs
    outer, groups, group, model = inputs.shape.dims
    choices = dimensions.experts_per_token(experts_per_token)
    copies = mtf.broadcast(inputs, [outer, groups, choices, group, model])
    pairs = dimensions.group(experts_per_token * group.size)
    return mtf.reshape(copies, [outer, groups, pairs, model])


def _sum_over_choices(x: mtf.Tensor, experts_per_token: int) -> mtf.Tensor:
    """[O, G, N, ...] to [O, G, S, ...]: sums over the K choices of each token."""
    if experts_per_token == 1:
        return x
    outer, groups, pairs, *rest = x.shape.dims
    choices = dimensions.experts_per_token(experts_per_token)
    group = dimensions.group(pairs.size // experts_per_token)
    x = mtf.reshape(x, [outer, groups, choices, group, *rest])
    return mtf.reduce_sum(x, reduced_dim=choices)


def _combine_choices(outputs: mtf.Tensor, routing: Routing) -> mtf.Tensor:
    """[O, G, N, H] to [O, G, S, H]: sums the expert outputs times their gates (equation 2)."""
    gated = outputs * mtf.cast(routing.gate, outputs.dtype)
    return _sum_over_choices(gated, routing.experts_per_token)


def _select_kept(kept: mtf.Tensor, values: mtf.Tensor, otherwise: int) -> mtf.Tensor:
    """Returns int32: `values` for kept tokens, and `otherwise` for all others."""
    return mtf.cwise(
        lambda kept, values: tf.where_v2(kept > 0, values, otherwise),
        [kept, values],
        output_dtype=tf.int32,
        grad_function=0,
        name="where_kept",
    )


def _move_rows(x: mtf.Tensor, source: mtf.Tensor, destination: mtf.Tensor) -> mtf.Tensor:
    """Fills Q places of each group from its P rows.

    Args:
      x: [O, G, P, M].
      source: [O, G, Q] int32, the row that fills each place; -1 leaves the place zero.
      destination: [O, G, P] int32, the inverse: the place of each row; -1 if it has no place.

    Returns:
      [O, G, Q, M]. The gradient is the inverse move.
    """

    def take(x, source):
        rows = tf.gather(x, tf.maximum(source, 0), batch_dims=2)
        # Multiplying by a mask would fail for a skipped row that is infinite.
        return tf.where_v2(source[..., None] < 0, tf.zeros([], rows.dtype), rows)

    outer, groups, _, model = x.shape.dims
    return mtf.slicewise(
        take,
        [x, source],
        output_shape=mtf.Shape([*source.shape.dims, model]),
        output_dtype=x.dtype,
        splittable_dims=[outer, groups, model],
        grad_function=lambda op, dy: [_move_rows(dy, destination, source), None],
        name="move",
    )


def _permute_rows(x: mtf.Tensor, order: mtf.Tensor, inverse: mtf.Tensor) -> mtf.Tensor:
    """Reorders the rows of each core.

    Args:
      x: [O, G, N, M].
      order: [O, G, N] int32, the row of x that becomes each new row, numbered within the core.
      inverse: [O, G, N] int32, the inverse permutation.

    Returns:
      [O, G, N, M]. The gradient is the inverse permutation.
    """

    def take(x, order):
        rows = tf.reshape(x, [-1, x.shape[-1]])
        return tf.reshape(tf.gather(rows, tf.reshape(order, [-1])), x.shape)

    return mtf.slicewise(
        take,
        [x, order],
        output_dtype=x.dtype,
        splittable_dims=[*x.shape.dims[:2], x.shape.dims[-1]],
        grad_function=lambda op, dy: [_permute_rows(dy, inverse, order), None],
        name="permute",
    )
