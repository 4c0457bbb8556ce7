"""transformers' config.json of T5 and Switch Transformers, read and written."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mtf_switch.conversion import public_checkpoints
from mtf_switch.conversion.architecture import STACKS, Architecture
from mtf_switch.errors import UserError

FILE = "config.json"
T5, MT5, SWITCH = "t5", "mt5", "switch_transformers"

# Mesh TensorFlow's names of transformers' activations. Mesh TensorFlow's GELU is the
# approximate one.
_ACTIVATIONS = {
    "relu": "relu",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "silu": "swish",
    "swish": "swish",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
# What is the same in every T5, and so in all formats but this one a constant.
_CONSTANTS = {
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "router_bias": False,
    "router_dtype": "float32",
}
# Tokens of a sequence that an expert takes, as in the public copies. It is a number of tokens,
# and not a share of them as everywhere else, so it cannot be derived.
_EXPERT_CAPACITY = 64

Config = Mapping[str, Any]


def read(folder: str) -> Config:
    """Reads a folder's config.json.

    Raises:
      UserError: if there is none, or it is of a model that is no T5.
    """
    path = os.path.join(folder, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no {FILE}, so it is not a model of transformers. Give the folder "
            "that save_pretrained wrote, or that was downloaded from the hub."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in (T5, MT5, SWITCH):
        raise UserError(
            f"{path} is of a model of type {kind!r}; those that can be converted are "
            f"{T5!r}, {MT5!r} and {SWITCH!r}."
        )
    for name, value in _CONSTANTS.items():
        if config.get(name, value) != value:
            raise UserError(
                f"{path} has {name} = {config[name]}, but Mesh TensorFlow's T5 has {value}, "
                "and no setting for it. This model cannot be converted."
            )
    return config


def scales_logits(config: Config) -> bool:
    """Whether the decoder's output is multiplied by d_model**-0.5, as T5 does with tied logits.

    transformers 5 says it in T5's configs by a flag of its own, for there it ties the
    logits' weights in any case unless a file holds others.
    """
    tied = config.get("tie_word_embeddings", True) is not False
    return bool(config.get("scale_decoder_outputs", tied))


def believed(path: str, config: Config, found: Architecture) -> tuple[Architecture, list[str]]:
    """Joins what the config says with what the tensors are.

    Args:
      path: of the folder, for messages.
      config: of the model.
      found: read off the tensors.

    Returns:
      The architecture, and notes for the user.

    Raises:
      UserError: if they contradict each other, in another way than in a known faulty copy.
    """
    public_checkpoints.check_gates(path, found)
    public = public_checkpoints.like(found)
    wrong = {key: text for key, text in _contradictions(config, found)}
    notes = []
    if public and wrong and set(wrong) <= set(public.wrong_in_config):
        notes.append(public.fault)
    elif wrong:
        raise UserError(f"{path} contradicts itself. {FILE} says: {'; '.join(wrong.values())}.")
    return dataclasses.replace(
        found,
        activations=_activations(path, config),
        dropout_rate=config.get("dropout_rate", found.dropout_rate),
        input_jitter=config.get("router_jitter_noise", found.input_jitter),
        capacity=public.capacity if public else found.capacity,
    ), notes


def _contradictions(config: Config, found: Architecture) -> list[tuple[str, str]]:
    """(what, text) of each value that differs from the tensors'."""
    values = {
        "vocab_size": found.vocab_size,
        "d_model": found.d_model,
        "d_kv": found.d_kv,
        "d_ff": found.d_ff,
        "num_heads": found.num_heads,
        "num_layers": len(found.encoder),
        "num_decoder_layers": len(found.decoder),
        "relative_attention_num_buckets": found.num_buckets,
    }
    if config["model_type"] == SWITCH:
        values["num_experts"] = found.num_experts
    texts = [
        (name, f"{name} is {config[name]}, the tensors: {value}")
        for name, value in values.items()
        if config.get(name, value) not in (value, None)
    ]
    if _is_gated(config) != found.gated:
        gated = {True: "gated (wi_0, wi_1)", False: "not gated (wi)"}
        texts.append(
            (
                "gated",
                f"feed-forward layers are {gated[_is_gated(config)]}, the tensors: "
                f"{gated[found.gated]}",
            )
        )
    if config["model_type"] == SWITCH:
        for stack in STACKS:
            texts += _sparse_contradiction(config, stack, getattr(found, stack))
    return texts


def _sparse_contradiction(
    config: Config, stack: str, sparse: tuple[bool, ...]
) -> list[tuple[str, str]]:
    name = f"num_sparse_{stack}_layers"
    if config.get(name) is None:
        return []
    blocks = config.get("num_layers", len(sparse))
    if stack == "decoder":
        blocks = config.get("num_decoder_layers") or blocks
    said = sparse_blocks(blocks, config[name])
    if said == sparse:
        return []
    text = (
        f"{name} is {config[name]}, which makes blocks {_numbers(said)} of the {stack} sparse, "
        f"the tensors: {_numbers(sparse)}"
    )
    return [(f"sparse {stack} blocks", text)]


def _numbers(sparse: Sequence[bool]) -> list[int]:
    return [i for i, is_sparse in enumerate(sparse) if is_sparse]


def sparse_blocks(blocks: int, sparse_layers: int) -> tuple[bool, ...]:
    """Which blocks transformers makes sparse.

    It takes each (blocks // sparse_layers)-th, from the second on. With none asked for, the
    second block is sparse nevertheless.
    """
    step = blocks // sparse_layers if sparse_layers > 0 else blocks
    return tuple(step == 1 or (step > 0 and i % step == 1) for i in range(blocks))


def _is_gated(config: Config) -> bool:
    names = (config.get("feed_forward_proj", "relu"), config.get("dense_act_fn", ""))
    return bool(config.get("is_gated_act")) or any(n.startswith("gated") for n in names)


def _activations(path: str, config: Config) -> tuple[str, ...]:
    said = config.get("feed_forward_proj") or config.get("dense_act_fn", "relu")
    if config["model_type"] == SWITCH:  # whose class reads this one
        said = config.get("dense_act_fn", said)
    name = said.split("-", 1)[-1]
    if said == "gated-gelu":  # by which T5 1.1 means the approximate one
        name = "gelu_new"
    if name not in _ACTIVATIONS:
        raise UserError(
            f"{os.path.join(path, FILE)} names the activation {said!r}, which Mesh TensorFlow "
            f"does not have. It has those that transformers calls {', '.join(_ACTIVATIONS)}."
        )
    activation = _ACTIVATIONS[name]
    return (activation, "linear") if _is_gated(config) else (activation,)


def of_architecture(architecture: Architecture, dtype: str) -> dict[str, Any]:
    """The config.json of a model.

    Raises:
      UserError: if transformers has no model of this architecture.
    """
    a = architecture
    config = {
        "d_model": a.d_model,
        "d_kv": a.d_kv,
        "d_ff": a.d_ff,
        "num_heads": a.num_heads,
        "num_layers": len(a.encoder),
        "num_decoder_layers": len(a.decoder),
        "vocab_size": a.vocab_size,
        "relative_attention_num_buckets": a.num_buckets,
        "relative_attention_max_distance": _CONSTANTS["relative_attention_max_distance"],
        "layer_norm_epsilon": _CONSTANTS["layer_norm_epsilon"],
        "dropout_rate": a.dropout_rate,
        "tie_word_embeddings": a.tied_logits,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    return {**config, **(_switch(a) if a.num_experts else _t5(a))}


def _activation(architecture: Architecture) -> str:
    names = {mtf: hf for hf, mtf in reversed(_ACTIVATIONS.items())}
    first, *others = architecture.activations
    if first not in names or others not in ([], ["linear"]):
        raise UserError(
            f"transformers' T5 has no feed-forward layer with {architecture.activations}; it "
            f"has {', '.join(names)}, alone or to gate."
        )
    return names[first]


def _t5(architecture: Architecture) -> dict[str, Any]:
    name = _activation(architecture)
    if architecture.gated:
        name = "gated-gelu" if name == "gelu_new" else f"gated-{name}"
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": T5,
        "feed_forward_proj": name,
        "is_gated_act": architecture.gated,
        "dense_act_fn": _activation(architecture),
    }


def _switch(architecture: Architecture) -> dict[str, Any]:
    if architecture.gated:
        raise UserError(
            "transformers' SwitchTransformersForConditionalGeneration has no gated "
            f"feed-forward layers ({' x '.join(architecture.activations)}): it would load such "
            "a checkpoint with random ones, and say so in a warning only. T5X has them: "
            "convert to t5x."
        )
    counts = {}
    for stack in STACKS:
        sparse = getattr(architecture, stack)
        possible = [
            n for n in range(len(sparse) + 1) if sparse_blocks(len(sparse), n) == sparse
        ]
        if not possible:
            raise UserError(
                "transformers' Switch Transformer makes every k-th block of a stack sparse, "
                f"from the second on, and at least one; in the {stack} of this model it would "
                f"have to be blocks {_numbers(sparse)} of {len(sparse)}. Convert to t5x."
            )
        counts[stack] = possible[-1]
    return {
        "architectures": ["SwitchTransformersForConditionalGeneration"],
        "model_type": SWITCH,
        "feed_forward_proj": _activation(architecture),
        "dense_act_fn": _activation(architecture),
        "is_gated_act": False,
        "num_experts": architecture.num_experts,
        "expert_capacity": _EXPERT_CAPACITY,
        "num_sparse_encoder_layers": counts["encoder"],
        "num_sparse_decoder_layers": counts["decoder"],
        "encoder_sparse_step": len(architecture.encoder) // max(counts["encoder"], 1),
        "decoder_sparse_step": len(architecture.decoder) // max(counts["decoder"], 1),
        "router_bias": _CONSTANTS["router_bias"],
        "router_dtype": _CONSTANTS["router_dtype"],
        "router_jitter_noise": architecture.input_jitter,
        "router_ignore_padding_tokens": True,
        "router_z_loss_coef": 0.0,
        "router_aux_loss_coef": 0.01,
        "add_router_probs": False,
    }
