"""The architecture of a T5 or Switch Transformer, independent of the checkpoint format."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

from mtf_switch import value_rules
from mtf_switch.conversion import tensor_names
from mtf_switch.conversion.tensor_names import EVERY, FIRST, MODEL, SPARSE, TensorRef
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity

Shape = tuple[int, ...]
# Mesh TensorFlow pads vocabularies to a multiple of this (Unitransformer.vocab_divisor).
VOCAB_DIVISOR = 128
STACKS = ("encoder", "decoder")

# These values are written into a gin file, so none of them may contain a gin statement.
RULES = {
    "dropout_rate": value_rules.rate(),
    "input_jitter": value_rules.number(0, below=1),
    "experts_per_token": value_rules.whole(1),
    "routing_stages": value_rules.whole(1),
    "activations": value_rules.Rule(
        "one or two names of activations",
        lambda names: (
            isinstance(names, tuple)
            and len(names) in (1, 2)
            and all(isinstance(name, str) and name.isidentifier() for name in names)
        ),
    ),
}


def default_capacity() -> ExpertCapacity:
    """Returns the capacity of an architecture that does not state one.

    It passes every argument, because gin would bind the missing ones.
    """
    fields = dataclasses.fields(ExpertCapacity)
    return ExpertCapacity(**{field.name: field.default for field in fields})


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A T5 encoder-decoder whose feed-forward layers may be Switch layers.

    Attributes:
      vocab_size: Rows of the embedding, including padding.
      d_model: Width of the model.
      d_kv: Width of one attention head.
      d_ff: Hidden width of a dense feed-forward layer and of each expert.
      num_heads: Attention heads.
      encoder: For each encoder block, whether its feed-forward layer is sparse.
      decoder: The same for each decoder block.
      num_experts: Experts per sparse layer, or 0 if there are no sparse layers.
      activations: Mesh TensorFlow's names of the activations. If there are two, their outputs
        are multiplied.
      tied_logits: Whether the embedding, scaled by d_model**-0.5, computes the logits.
      num_buckets: Buckets of relative positions. All formats fix the largest distance to 128.
      dropout_rate: Dropout rate in training.
      input_jitter: Eps of the noise on the router's input in training.
      capacity: Expert capacity. Only the gin files of Mesh TensorFlow and T5X state it.
      experts_per_token: The experts that a token visits. Only these gin files state it, too.
      routing_stages: The experts that a token tries until one has room; several with
        No-Token-Left-Behind. Only Mesh TensorFlow's gin files state it.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    encoder: tuple[bool, ...]
    decoder: tuple[bool, ...]
    num_experts: int
    activations: tuple[str, ...]
    tied_logits: bool
    num_buckets: int = 32
    dropout_rate: float = 0.1
    input_jitter: float = 0.01
    capacity: ExpertCapacity = dataclasses.field(default_factory=default_capacity)
    experts_per_token: int = 1
    routing_stages: int = 1

    def __post_init__(self):
        value_rules.check_all("The model", RULES, vars(self))

    @classmethod
    def from_shapes(cls, shapes: Mapping[TensorRef, Shape]) -> Architecture:
        """Infers an architecture from the shapes of its tensors.

        Shapes do not determine the activations. They default to ReLU, and to GELU in gated
        layers.

        Args:
          shapes: Shapes of stacked tensors, in Mesh TensorFlow's orientation.

        Raises:
          UserError: If a tensor that every T5 has is missing.
        """
        by_key = {(ref.row.key, ref.block): shape for ref, shape in shapes.items()}
        vocab_size, d_model = _get_required_shape(by_key, "embedding")
        num_heads, num_buckets = _get_required_shape(by_key, "encoder/position_bias", 0)
        query_shape = _get_required_shape(by_key, "encoder/attention/q", 0)
        kernels = sorted(
            (ref.row.kernel, shape) for ref, shape in shapes.items() if ref.row.is_feed_forward
        )
        if not kernels:
            raise UserError(
                "The checkpoint has no feed-forward layers, so it is not a T5 or a Switch "
                "Transformer."
            )
        gated = any(kernel in ("wi_0", "wi_1") for kernel, _ in kernels)
        routers = [shape for ref, shape in shapes.items() if ref.row.kernel == "router"]
        return cls(
            vocab_size=vocab_size,
            d_model=d_model,
            d_kv=query_shape[-1] // num_heads,
            # The first kernel is an input matrix, [M, F] or [E, M, F].
            d_ff=kernels[0][1][-1],
            num_heads=num_heads,
            encoder=_find_sparse_blocks(by_key, "encoder"),
            decoder=_find_sparse_blocks(by_key, "decoder"),
            num_experts=routers[0][-1] if routers else 0,
            activations=("gelu", "linear") if gated else ("relu",),
            tied_logits=("logits", None) not in by_key,
            num_buckets=num_buckets,
        )

    @property
    def gated(self) -> bool:
        """Whether feed-forward layers have two input matrices."""
        return len(self.activations) == 2

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(math.prod(self.shape(ref)) for ref in self.stacked_tensors())

    def shape(self, ref: TensorRef) -> Shape:
        """Returns the shape of a tensor in Mesh TensorFlow's orientation.

        The shape of a single expert's slice lacks the dimension E.
        """
        sizes = {
            "V": self.vocab_size,
            "M": self.d_model,
            "A": self.num_heads * self.d_kv,
            "F": self.d_ff,
            "H": self.num_heads,
            "B": self.num_buckets,
            "E": self.num_experts,
        }
        letters = ref.row.shape if ref.expert is None else ref.row.shape.removeprefix("E")
        return tuple(sizes[letter] for letter in letters)

    def stacked_tensors(self) -> Iterator[TensorRef]:
        """Yields all tensors, with experts stacked, by row of the table, then by block."""
        for row in tensor_names.ROWS:
            if self._has_row(row):
                for block in self._list_blocks(row):
                    yield TensorRef(row, block)

    def tensors_by_expert(self) -> Iterator[TensorRef]:
        """Yields the same tensors as `stacked_tensors`, but one item per expert."""
        for ref in self.stacked_tensors():
            if ref.row.is_expert:
                for expert in range(self.num_experts):
                    yield dataclasses.replace(ref, expert=expert)
            else:
                yield ref

    def _has_row(self, row: tensor_names.Row) -> bool:
        """Whether a model with these logits and activations has tensors of a row."""
        if row.key == "logits":
            return not self.tied_logits
        if row.kernel == "wi":
            return not self.gated
        if row.kernel in ("wi_0", "wi_1"):
            return self.gated
        return True

    def _list_blocks(self, row: tensor_names.Row) -> list[int] | list[None]:
        """Returns the blocks with a tensor of this row; [None] if it is outside the blocks."""
        if row.where == MODEL:
            return [None]
        sparse = getattr(self, row.stack)
        blocks = list(range(len(sparse)))
        if row.where == FIRST:
            return blocks[:1]
        if row.where == EVERY:
            return blocks
        return [block for block in blocks if sparse[block] == (row.where == SPARSE)]


def _get_required_shape(
    by_key: Mapping[tuple[str, int | None], Shape], key: str, block: int | None = None
) -> Shape:
    if (key, block) not in by_key:
        place = "" if block is None else f" in block {block}"
        raise UserError(
            f"The checkpoint has no tensor {key!r}{place}, so it is not an encoder-decoder "
            "T5 or Switch Transformer."
        )
    return by_key[key, block]


def _find_sparse_blocks(
    by_key: Mapping[tuple[str, int | None], Shape], stack: str
) -> tuple[bool, ...]:
    """For each block of a stack, whether it has a router."""
    blocks = [i for key, i in by_key if key.startswith(stack + "/") and i is not None]
    return tuple((f"{stack}/router", i) in by_key for i in range(max(blocks, default=-1) + 1))
