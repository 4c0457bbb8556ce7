"""What a T5 or Switch Transformer is made of, whatever its checkpoint's format."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from mtf_switch.conversion import tensor_names
from mtf_switch.conversion.tensor_names import DENSE, EVERY, FIRST, MODEL, SPARSE, Piece
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity

Shape = tuple  # of ints
# Mesh TensorFlow pads vocabularies to a multiple of this (Unitransformer.vocab_divisor).
VOCAB_DIVISOR = 128
STACKS = ("encoder", "decoder")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An encoder-decoder of T5, some of whose feed-forward layers may be Switch layers.

    Attributes:
      vocab_size: rows of the embedding, padding included.
      d_model, d_kv, d_ff, num_heads: as T5 calls them; d_ff also of each expert.
      encoder, decoder: for each block, whether its feed-forward layer is sparse.
      num_experts: of each sparse layer; 0 without any.
      activations: names of Mesh TensorFlow's; of two, the outputs are multiplied.
      tied_logits: whether the embedding, times d_model**-0.5, gives the logits.
      num_buckets: of relative positions; the largest distance is 128 in all formats.
      dropout_rate: in training.
      input_jitter: eps of the router's noise, in training.
      capacity: of experts. No format but Mesh TensorFlow's gin files and T5X's states it.
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
    capacity: ExpertCapacity = dataclasses.field(default_factory=ExpertCapacity)

    @property
    def gated(self) -> bool:
        """Whether feed-forward layers have two input matrices."""
        return len(self.activations) == 2

    @property
    def parameters(self) -> int:
        """How many numbers the tensors hold."""
        return sum(size(self.shape(piece)) for piece in self.tensors())

    def shape(self, piece: Piece) -> Shape:
        """Of a tensor in Mesh TensorFlow's orientation; without E for one expert of it."""
        sizes = {
            "V": self.vocab_size,
            "M": self.d_model,
            "K": self.num_heads * self.d_kv,
            "F": self.d_ff,
            "H": self.num_heads,
            "B": self.num_buckets,
            "E": self.num_experts,
        }
        letters = piece.row.shape[piece.expert is not None :]
        return tuple(sizes[letter] for letter in letters)

    def tensors(self) -> Iterator[Piece]:
        """All its tensors, each whole, in the order of the table and then of blocks."""
        for row in tensor_names.ROWS:
            if self._has(row):
                blocks = self._blocks(row)
                yield from (Piece(row, block) for block in blocks)

    def pieces(self) -> Iterator[Piece]:
        """All its tensors, those of experts one expert at a time."""
        for tensor in self.tensors():
            if tensor.row.shape.startswith("E"):
                for expert in range(self.num_experts):
                    yield dataclasses.replace(tensor, expert=expert)
            else:
                yield tensor

    def _has(self, row: tensor_names.Row) -> bool:
        if row.key == "logits":
            return not self.tied_logits
        kernel = row.key.rsplit("/", 1)[-1]
        return not kernel.startswith("wi") or (kernel != "wi") == self.gated

    def _blocks(self, row: tensor_names.Row) -> list[int | None]:
        if row.where == MODEL:
            return [None]
        sparse = getattr(self, row.key.split("/")[0])
        chosen = {
            FIRST: lambda i: i == 0,
            EVERY: lambda i: True,
            DENSE: lambda i: not sparse[i],
            SPARSE: lambda i: sparse[i],
        }[row.where]
        return [i for i in range(len(sparse)) if chosen(i)]


def size(shape: Shape) -> int:
    """The number of elements."""
    product = 1
    for dim in shape:
        product *= dim
    return product


def common_dtype(names: Iterable[str]) -> str:
    """The dtype that holds all of these: bfloat16 if they all are, else float32."""
    return "bfloat16" if set(names) == {"bfloat16"} else "float32"


def of_shapes(shapes: Mapping[Piece, Shape], **known) -> Architecture:
    """Reads an architecture off the shapes of its tensors.

    Args:
      shapes: of whole tensors, in Mesh TensorFlow's orientation, experts stacked.
      known: attributes that shapes do not say; `activations` if other than ReLU and gated GELU.

    Raises:
      UserError: if these are not the tensors of a T5.
    """
    by_key = {(piece.row.key, piece.block): shape for piece, shape in shapes.items()}

    def of(key: str, block: int | None = None) -> Shape:
        if (key, block) not in by_key:
            raise UserError(
                f"There is no tensor {key!r}"
                + (f" of block {block}" if block is not None else "")
                + ", so this is not an encoder-decoder of T5 or a Switch Transformer."
            )
        return by_key[key, block]

    vocab_size, d_model = of("embedding")
    num_heads, num_buckets = of("encoder/position_bias", 0)
    sparse = {stack: _sparse_blocks(by_key, stack) for stack in STACKS}
    kernels = sorted(
        (key.rsplit("/", 1)[-1], shape)
        for (key, _), shape in by_key.items()
        if key.split("/")[1:2] in (["dense"], ["experts"])
    )
    if not kernels:
        raise UserError("There are no feed-forward layers, so this is not a T5.")
    gated = any(kernel != "wi" and kernel.startswith("wi") for kernel, _ in kernels)
    routers = [shape for (key, _), shape in by_key.items() if key.endswith("/router")]
    known.setdefault("activations", ("gelu", "linear") if gated else ("relu",))
    return Architecture(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=of("encoder/attention/q", 0)[-1] // num_heads,
        d_ff=kernels[0][1][-1],
        num_heads=num_heads,
        encoder=sparse["encoder"],
        decoder=sparse["decoder"],
        num_experts=routers[0][-1] if routers else 0,
        tied_logits=("logits", None) not in by_key,
        num_buckets=num_buckets,
        **known,
    )


def _sparse_blocks(by_key: Mapping[tuple[str, int | None], Shape], stack: str) -> tuple:
    blocks = [i for key, i in by_key if key.startswith(stack + "/") and i is not None]
    return tuple((f"{stack}/router", i) in by_key for i in range(max(blocks, default=-1) + 1))
