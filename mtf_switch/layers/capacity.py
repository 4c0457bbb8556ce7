"""Groups of tokens and expert capacity: integer arithmetic, without TensorFlow.

Equation 3 of the paper: expert capacity = (tokens per group / experts) x capacity factor.
Rulings are explained in docs/fidelity.md.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import gin

from mtf_switch import value_rules
from mtf_switch.errors import UserError, nearest_divisors

# Selects the capacity factor: the one for training, the one for evaluation, or none (decoding).
CapacityMode = Literal["train", "eval", "decode"]

_FACTOR = value_rules.number(
    above=0, finite=False, advice="1.0 gives each expert its even share of the tokens."
)
_GROUP = value_rules.whole(
    1, advice="A group holds at least one token; None makes one group per core."
).or_none()
RULES = value_rules.declare(
    "ExpertCapacity",
    capacity_factor_train=_FACTOR,
    capacity_factor_eval=_FACTOR,
    min_expert_capacity=value_rules.whole(0),
    group_size=_GROUP,
    max_group_size=_GROUP,
)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ExpertCapacity:
    """Decides how many tokens form a group, and how many of them one expert can take.

    Attributes:
      capacity_factor_train: The capacity factor of equation 3 in training. 1.0 gives each
        expert its even share of the tokens.
      capacity_factor_eval: The capacity factor in evaluation and for the prompt of a decoder.
      min_expert_capacity: The smallest C (4 as in Mesh TF; ruling 6 in docs/fidelity.md).
      group_size: S. None makes one group per core, as in the paper (ruling 7). A core with
        fewer tokens puts them all into one group.
      max_group_size: The upper limit of S, in place of a fixed `group_size`. S is then the
        largest size within the limit that divides a core's tokens, as in Mesh TF and in the
        released models.

    Raises:
      UserError: If a value is not valid.
    """

    capacity_factor_train: float = 1.25
    capacity_factor_eval: float = 2.0
    min_expert_capacity: int = 4
    group_size: int | None = None
    max_group_size: int | None = None

    def __post_init__(self):
        value_rules.check_all("ExpertCapacity", RULES, vars(self))
        if self.group_size and self.max_group_size:
            raise UserError(
                f"ExpertCapacity.group_size = {self.group_size} fixes the size of a group, and "
                f"max_group_size = {self.max_group_size} leaves it open: set one to None."
            )

    def split_into_groups(
        self, tokens: int, cores: int = 1, strict: bool = True
    ) -> tuple[int, int]:
        """Splits the tokens of a batch into groups of equal size.

        Args:
          tokens: Number of tokens in the batch (for one copy of the experts).
          cores: Number of cores over which the batch is split.
          strict: Whether to refuse a `group_size` that does not divide a core's tokens, and a
            `max_group_size` if the largest size that divides them is only half of it or less.
            If False, the largest size that divides them is used. Prompts need this, because
            users choose their number of tokens.

        Returns:
          (G, S) with G * S == tokens and G a multiple of `cores`.

        Raises:
          UserError: If the tokens do not divide over the cores, or the tokens of a core do
            not divide into groups of the configured size.
        """
        if tokens % cores:
            raise UserError(
                f"A batch of {tokens} tokens does not divide over {cores} cores. Choose a "
                f"batch size that is a multiple of {cores}."
            )
        per_core = tokens // cores
        name = "max_group_size" if self.max_group_size else "group_size"
        size = min(getattr(self, name) or per_core, per_core)
        divisor = next(s for s in range(size, 0, -1) if per_core % s == 0)
        # In very small groups, the experts would have more slots than there are tokens.
        if not strict or (self.max_group_size and 2 * divisor > size):
            size = divisor
        if per_core % size:
            raise UserError(
                f"ExpertCapacity.{name} = {size} does not divide the {per_core} tokens "
                f"of a core (batch of {tokens} tokens, cores: {cores}). The nearest sizes "
                f"that do: {nearest_divisors(per_core, size)}; None makes one group per core."
            )
        return tokens // size, size

    def expert_capacity(self, group_size: int, num_experts: int, mode: CapacityMode) -> int:
        """Returns C, the expert capacity (equation 3).

        Args:
          group_size: S.
          num_experts: E.
          mode: "train", "eval", or "decode". While decoding, an expert has room for every
            token, because a token dropped there would be lost to all later ones.

        Returns:
          C with 1 <= C <= S: an expert never needs more slots than the group has tokens.

        Raises:
          UserError: If the factor leaves no slot.
        """
        if mode == "decode":
            return group_size
        name = f"capacity_factor_{mode}"
        factor = getattr(self, name)
        # Round down, as in Mesh TF.
        share = int(min(group_size, group_size * factor / num_experts))
        capacity = min(group_size, max(share, self.min_expert_capacity))
        if capacity < 1:
            raise UserError(
                f"The expert capacity is below 1: groups of {group_size} tokens / "
                f"{num_experts} experts x {name} {factor} = "
                f"{group_size * factor / num_experts:.3f}, and min_expert_capacity is "
                f"{self.min_expert_capacity}. Use larger groups, fewer experts, a larger "
                "capacity factor, or a min_expert_capacity of at least 1."
            )
        return capacity


@dataclasses.dataclass(frozen=True)
class InferenceCapacity:
    """The expert capacity with which a model predicts or scores lines of text.

    With the capacity of evaluation, the result of a line depends on the other lines of its
    batch, because they compete for slots. By default no token is dropped.

    Attributes:
      factor: The capacity factor, in place of `capacity_factor_eval`. None gives every token a
        slot in each expert (C = S), except with the paper's one-hot products ("einsum", on a
        TPU), to which `capacity_factor_eval` applies: their tensors [S, E, C] would have
        S x E x S elements. "gather" has E x S slots for the S tokens of a group, and so needs E
        times the memory and FLOPs of an even share; a factor avoids that. "sort" has no slots.
    """

    factor: float | None = None

    def adapt(self, capacity: ExpertCapacity, one_hot: bool) -> ExpertCapacity:
        """Returns the capacity of a layer with this factor in place of `capacity_factor_eval`.

        Args:
          capacity: The capacity of the layer.
          one_hot: Whether tokens are dispatched by one-hot products.
        """
        if self.factor is None and one_hot:
            return capacity
        factor = math.inf if self.factor is None else self.factor
        return dataclasses.replace(capacity, capacity_factor_eval=factor)
