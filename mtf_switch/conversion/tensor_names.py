"""What a tensor is called, and which way it lies, in each of the three formats: rows of data.

One table serves every direction of `run_switch.py convert`: a row's column is the pattern on
the way in and the replacement on the way out. The formats:

    mtf   variables of a Mesh TensorFlow checkpoint; `{self}`, `{cross}` and `{ffn}` stand for
          the path of that layer of block i, block_000/layer_001 and the like
    hf    tensors of transformers' T5 and Switch Transformers
    t5x   arrays of T5X, as its `switch_classic` models and its T5 name them

Shapes are Mesh TensorFlow's, in letters:

    V   vocabulary, padded             H   heads
    M   d_model                        B   buckets of relative positions
    K   heads x d_kv, joined           E   experts
    F   d_ff, also of each expert

T5X keeps every array in Mesh TensorFlow's orientation, the relative-position bias too.
transformers keeps matrices as [out, in]: rows that are TRANSPOSED are turned round for it. And
it keeps each expert apart, where the shape here begins with E: expert e is slice e, by its
number and not by the order of names.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping

MTF, HF, T5X = "mtf", "hf", "t5x"
FORMATS = (HF, T5X, MTF)

# Where a row's tensor stands: once in a model; in the first block of a stack; in all blocks; in
# those with a dense, or with a sparse feed-forward layer.
MODEL, FIRST, EVERY, DENSE, SPARSE = "model", "first", "every", "dense", "sparse"
SAME, TRANSPOSED = "same", "transposed"


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of tensor.

    Attributes:
      key: what it is, such as "encoder/experts/wi".
      where: MODEL, FIRST, EVERY, DENSE or SPARSE.
      shape: letters of the legend, in Mesh TensorFlow's order.
      mtf, hf, t5x: its name in each format; `{i}` is the number of the block, `{e}` that of the
        expert.
      transform: from Mesh TensorFlow's orientation to that of transformers.
    """

    key: str
    where: str
    shape: str
    mtf: str
    hf: str
    t5x: str
    transform: str = SAME


def _attention(stack: str, kind: str, mtf: str, hf: str, t5x: str) -> list[Row]:
    letters = {"q": "query", "k": "key", "v": "value", "o": "out"}
    return [
        Row(
            f"{stack}/{kind}/{letter}",
            EVERY,
            "KM" if letter == "o" else "MK",
            f"{stack}/{mtf}/{letter}",
            f"{stack}.block.{{i}}.layer.{hf}.{letter}.weight",
            f"{stack}/layers_{{i}}/{t5x}/{word}/kernel",
            TRANSPOSED,
        )
        for letter, word in letters.items()
    ]


def _feed_forward(stack: str, layer: int) -> list[Row]:
    mtf, hf = f"{stack}/{{ffn}}", f"{stack}.block.{{i}}.layer.{layer}"
    t5x = f"{stack}/layers_{{i}}/mlp"
    # fmt: off
    rows = [
        Row(f"{stack}/router", SPARSE, "ME", f"{mtf}/SwitchFFN/switch_gating/kernel",
            f"{hf}.mlp.router.classifier.weight", f"{t5x}/router/router_weights/w/kernel",
            TRANSPOSED),
    ]
    # wi alone, or wi_0 and wi_1 where the activation of the one gates the other.
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
    *_attention("encoder", "attention", "{self}/SelfAttention", "0.SelfAttention", "attention"),
    Row("encoder/ffn/norm", EVERY, "M", "encoder/{ffn}/rms_norm/scale",
        "encoder.block.{i}.layer.1.layer_norm.weight",
        "encoder/layers_{i}/pre_mlp_layer_norm/scale"),
    *_feed_forward("encoder", layer=1),
    Row("encoder/norm", MODEL, "M", "encoder/rms_norm/scale", "encoder.final_layer_norm.weight",
        "encoder/encoder_norm/scale"),

    Row("decoder/position_bias", FIRST, "HB",
        "decoder/{self}/SelfAttention/relative_attention_bias",
        "decoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder/relpos_bias/rel_embedding", TRANSPOSED),
    Row("decoder/attention/norm", EVERY, "M", "decoder/{self}/rms_norm/scale",
        "decoder.block.{i}.layer.0.layer_norm.weight",
        "decoder/layers_{i}/pre_self_attention_layer_norm/scale"),
    *_attention("decoder", "attention", "{self}/SelfAttention", "0.SelfAttention",
                "self_attention"),
    Row("decoder/cross_attention/norm", EVERY, "M", "decoder/{cross}/rms_norm/scale",
        "decoder.block.{i}.layer.1.layer_norm.weight",
        "decoder/layers_{i}/pre_cross_attention_layer_norm/scale"),
    *_attention("decoder", "cross_attention", "{cross}/EncDecAttention", "1.EncDecAttention",
                "encoder_decoder_attention"),
    Row("decoder/ffn/norm", EVERY, "M", "decoder/{ffn}/rms_norm/scale",
        "decoder.block.{i}.layer.2.layer_norm.weight",
        "decoder/layers_{i}/pre_mlp_layer_norm/scale"),
    *_feed_forward("decoder", layer=2),
    Row("decoder/norm", MODEL, "M", "decoder/rms_norm/scale", "decoder.final_layer_norm.weight",
        "decoder/decoder_norm/scale"),

    # Where logits are not tied. Tied ones are embedding x d_model**-0.5 in all three.
    Row("logits", MODEL, "MV", "decoder/logits/kernel", "lm_head.weight",
        "decoder/logits_dense/kernel", TRANSPOSED),
)
# fmt: on

# What stands for a field while names are read.
_FIELDS = {
    "i": r"(?P<block>\d+)",
    "e": r"(?P<expert>\d+)",
    "self": r"(?P<block>\d+)\.self",
    "cross": r"(?P<block>\d+)\.cross",
    "ffn": {MTF: r"(?P<block>\d+)\.ffn", HF: r"(?:DenseReluDense|mlp)"},
}


@dataclasses.dataclass(frozen=True)
class Piece:
    """What is moved at a time: a tensor, or one expert's slice of it.

    Attributes:
      row: the kind of tensor.
      block: number of the block within its stack, from 0; None where there is one in a model.
      expert: number of the expert; None for what is not in experts.
    """

    row: Row
    block: int | None = None
    expert: int | None = None

    @property
    def transposed(self) -> bool:
        """Whether transformers keeps it the other way round."""
        return self.row.transform == TRANSPOSED

    def name(self, format: str, fields: Mapping[str, str] | None = None) -> str:
        """Its name in a format; `fields` are those that the numbers do not say."""
        values = {"i": self.block, "e": self.expert, **(fields or {})}
        return getattr(self.row, format).format_map(values)


def find(format: str, name: str) -> Piece | None:
    """The piece that a name of a format stands for, None if the format has no such name.

    A name of Mesh TensorFlow has to say the block of its layer: encoder/3.ffn/rms_norm/scale.
    """
    for row, pattern in _patterns(format):
        matched = pattern.fullmatch(name)
        if matched:
            numbers = {key: int(number) for key, number in matched.groupdict().items()}
            if row.where == FIRST:
                numbers.setdefault("block", 0)
            return Piece(row, **numbers)
    return None


@functools.lru_cache(maxsize=len(FORMATS))
def _patterns(format: str) -> tuple[tuple[Row, re.Pattern], ...]:
    return tuple((row, re.compile(_pattern(format, getattr(row, format)))) for row in ROWS)


def _pattern(format: str, template: str) -> str:
    parts = re.split(r"\{(\w+)\}", template)
    pattern = [re.escape(parts[0])]
    for field, text in zip(parts[1::2], parts[2::2]):
        expression = _FIELDS[field]
        pattern += [
            expression[format] if isinstance(expression, dict) else expression,
            re.escape(text),
        ]
    return "".join(pattern)
