"""The name and orientation of every tensor in each of the three checkpoint formats, as a table.

One table serves all directions of `run_switch.py convert`: a column is both the pattern that
reads a name and the template that writes one. The formats:

    mtf   variables of a Mesh TensorFlow checkpoint; `{self}`, `{cross}` and `{ffn}` stand for
          the path of that layer in block i, such as block_000/layer_001
    hf    tensors of transformers' T5 and Switch Transformers
    t5x   arrays of T5X, as its `switch_classic` models and its T5 name them

Shapes are given in Mesh TensorFlow's orientation, in letters:

    V   vocabulary, including padding    H   attention heads
    M   d_model                          B   buckets of relative positions
    A   attention width, heads x d_kv    E   experts
    F   d_ff, also of each expert

T5X stores every array in this orientation, including the relative-position bias. transformers
stores matrices as [out, in], so rows marked TRANSPOSED are transposed for it. It also stores
each expert as a separate tensor: expert number e is slice e of a shape that begins with E. The
number decides, not the alphabetical order of the names.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Literal, get_args

Format = Literal["hf", "t5x", "mtf"]
HF: Format = "hf"
T5X: Format = "t5x"
MTF: Format = "mtf"
FORMATS: tuple[Format, ...] = get_args(Format)

# Where a model has the tensor of a row: once, in the first block of a stack, in every block, or
# in the blocks with a dense or a sparse feed-forward layer.
Where = Literal["model", "first", "every", "dense", "sparse"]
MODEL: Where = "model"
FIRST: Where = "first"
EVERY: Where = "every"
DENSE: Where = "dense"
SPARSE: Where = "sparse"

Transform = Literal["same", "transposed"]
SAME: Transform = "same"
TRANSPOSED: Transform = "transposed"


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of tensor.

    Attributes:
      key: The project's name for the tensor, such as "encoder/experts/wi".
      where: The blocks that have the tensor.
      shape: Letters of the legend, in Mesh TensorFlow's orientation.
      mtf: Its name in Mesh TensorFlow. In all names, `{i}` is the number of the block and `{e}`
        is the number of the expert.
      hf: Its name in transformers.
      t5x: Its name in T5X.
      transform: How Mesh TensorFlow's orientation becomes that of transformers.
    """

    key: str
    where: Where
    shape: str
    mtf: str
    hf: str
    t5x: str
    transform: Transform = SAME

    @property
    def stack(self) -> str:
        """The stack, "encoder" or "decoder", of a tensor inside a block."""
        return self.key.split("/")[0]

    @property
    def kernel(self) -> str:
        """The last part of the key, such as "wi" or "router"."""
        return self.key.rsplit("/", 1)[-1]

    @property
    def is_expert(self) -> bool:
        """Whether the tensor stacks one matrix per expert."""
        return self.shape.startswith("E")

    @property
    def is_feed_forward(self) -> bool:
        """Whether it is a matrix of a dense feed-forward layer or of its experts."""
        return self.key.split("/")[1:2] in (["dense"], ["experts"])


def _make_attention(stack: str, kind: str, mtf: str, hf: str, t5x: str) -> list[Row]:
    letters = {"q": "query", "k": "key", "v": "value", "o": "out"}
    return [
        Row(
            f"{stack}/{kind}/{letter}",
            EVERY,
            "AM" if letter == "o" else "MA",
            f"{stack}/{mtf}/{letter}",
            f"{stack}.block.{{i}}.layer.{hf}.{letter}.weight",
            f"{stack}/layers_{{i}}/{t5x}/{word}/kernel",
            TRANSPOSED,
        )
        for letter, word in letters.items()
    ]


def _make_feed_forward(stack: str, layer: int) -> list[Row]:
    mtf, hf = f"{stack}/{{ffn}}", f"{stack}.block.{{i}}.layer.{layer}"
    t5x = f"{stack}/layers_{{i}}/mlp"
    # fmt: off
    rows = [
        Row(f"{stack}/router", SPARSE, "ME", f"{mtf}/SwitchFFN/switch_gating/kernel",
            f"{hf}.mlp.router.classifier.weight", f"{t5x}/router/router_weights/w/kernel",
            TRANSPOSED),
    ]
    # A layer has either wi, or wi_0 and wi_1; the activation of wi_0 gates wi_1.
    for kernel, shape in (("wi", "MF"), ("wi_0", "MF"), ("wi_1", "MF"), ("wo", "FM")):
        rows += [
            Row(f"{stack}/dense/{kernel}", DENSE, shape,
                f"{mtf}/DenseReluDense/{kernel}/kernel", f"{hf}.{{ffn}}.{kernel}.weight",
                f"{t5x}/{kernel}/kernel", TRANSPOSED),
            Row(f"{stack}/experts/{kernel}", SPARSE, "E" + shape,
                f"{mtf}/SwitchFFN/{kernel}/kernel",
                f"{hf}.mlp.experts.expert_{{e}}.{kernel}.weight",
                f"{t5x}/expert/{kernel}/kernel", TRANSPOSED),
        ]
    # fmt: on
    return rows


# fmt: off
ROWS = (
    Row("embedding", MODEL, "VM", "shared/embedding", "shared.weight",
        "token_embedder/embedding"),

    Row("encoder/position_bias", FIRST, "HB",
        "encoder/{self}/SelfAttention/relative_attention_bias",
        "encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder/relpos_bias/rel_embedding", TRANSPOSED),
    Row("encoder/attention/norm", EVERY, "M", "encoder/{self}/rms_norm/scale",
        "encoder.block.{i}.layer.0.layer_norm.weight",
        "encoder/layers_{i}/pre_attention_layer_norm/scale"),
    *_make_attention("encoder", "attention", "{self}/SelfAttention", "0.SelfAttention",
                     "attention"),
    Row("encoder/ffn/norm", EVERY, "M", "encoder/{ffn}/rms_norm/scale",
        "encoder.block.{i}.layer.1.layer_norm.weight",
        "encoder/layers_{i}/pre_mlp_layer_norm/scale"),
    *_make_feed_forward("encoder", layer=1),
    Row("encoder/norm", MODEL, "M", "encoder/rms_norm/scale", "encoder.final_layer_norm.weight",
        "encoder/encoder_norm/scale"),

    Row("decoder/position_bias", FIRST, "HB",
        "decoder/{self}/SelfAttention/relative_attention_bias",
        "decoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder/relpos_bias/rel_embedding", TRANSPOSED),
    Row("decoder/attention/norm", EVERY, "M", "decoder/{self}/rms_norm/scale",
        "decoder.block.{i}.layer.0.layer_norm.weight",
        "decoder/layers_{i}/pre_self_attention_layer_norm/scale"),
    *_make_attention("decoder", "attention", "{self}/SelfAttention", "0.SelfAttention",
                     "self_attention"),
    Row("decoder/cross_attention/norm", EVERY, "M", "decoder/{cross}/rms_norm/scale",
        "decoder.block.{i}.layer.1.layer_norm.weight",
        "decoder/layers_{i}/pre_cross_attention_layer_norm/scale"),
    *_make_attention("decoder", "cross_attention", "{cross}/EncDecAttention",
                     "1.EncDecAttention", "encoder_decoder_attention"),
    Row("decoder/ffn/norm", EVERY, "M", "decoder/{ffn}/rms_norm/scale",
        "decoder.block.{i}.layer.2.layer_norm.weight",
        "decoder/layers_{i}/pre_mlp_layer_norm/scale"),
    *_make_feed_forward("decoder", layer=2),
    Row("decoder/norm", MODEL, "M", "decoder/rms_norm/scale", "decoder.final_layer_norm.weight",
        "decoder/decoder_norm/scale"),

    # Only if the logits are not tied: tied logits use embedding x d_model**-0.5 in all formats.
    Row("logits", MODEL, "MV", "decoder/logits/kernel", "lm_head.weight",
        "decoder/logits_dense/kernel", TRANSPOSED),
)
# fmt: on

# The regular expression of each field of a name.
_FIELD_PATTERNS = {
    "i": r"(?P<block>\d+)",
    "e": r"(?P<expert>\d+)",
    "self": r"(?P<block>\d+)\.self",
    "cross": r"(?P<block>\d+)\.cross",
    "ffn": {MTF: r"(?P<block>\d+)\.ffn", HF: r"(?:DenseReluDense|mlp)"},
}


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """Identifies a tensor of a model, or one expert's slice of it.

    Attributes:
      row: The kind of tensor.
      block: Index of the block within its stack; None for a tensor outside the blocks.
      expert: Index of the expert; None for a whole tensor, in which experts are stacked.
    """

    row: Row
    block: int | None = None
    expert: int | None = None

    @property
    def transposed(self) -> bool:
        """Whether transformers stores the transpose."""
        return self.row.transform == TRANSPOSED

    @property
    def stacked(self) -> TensorRef:
        """The whole tensor of which this is a slice, or this tensor if it is whole."""
        return dataclasses.replace(self, expert=None)

    def format_name(self, format: Format, layers: Mapping[str, str] | None = None) -> str:
        """Returns the name in a format.

        Args:
          format: The checkpoint format.
          layers: Values of the fields `{self}`, `{cross}` and `{ffn}`, which depend on more
            than block and expert.
        """
        values = {"i": self.block, "e": self.expert, **(layers or {})}
        return getattr(self.row, format).format_map(values)


def parse_name(format: Format, name: str) -> TensorRef | None:
    """Returns the tensor that a name stands for, or None if no row has such a name.

    A name of Mesh TensorFlow must state the block of its layer: encoder/3.ffn/rms_norm/scale.
    """
    for row, pattern in _compile_patterns(format):
        matched = pattern.fullmatch(name)
        if matched:
            numbers = {key: int(number) for key, number in matched.groupdict().items()}
            if row.where == FIRST:
                numbers.setdefault("block", 0)
            return TensorRef(row, **numbers)
    return None


@functools.lru_cache(maxsize=len(FORMATS))
def _compile_patterns(format: Format) -> tuple[tuple[Row, re.Pattern], ...]:
    return tuple((row, _compile(format, getattr(row, format))) for row in ROWS)


def _compile(format: Format, template: str) -> re.Pattern:
    """Compiles a name with fields, such as "{i}", into a pattern with named groups."""
    pattern = ""
    for text, field in re.findall(r"([^{]*)(?:\{(\w+)\})?", template):
        pattern += re.escape(text)
        if field:
            expression = _FIELD_PATTERNS[field]
            pattern += expression if isinstance(expression, str) else expression[format]
    return re.compile(pattern)
