"""Reads and writes the config.json that transformers has for T5 and Switch Transformers."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mtf_switch.conversion import public_checkpoints
from mtf_switch.conversion.architecture import STACKS, Architecture
from mtf_switch.errors import UserError
from mtf_switch.value_rules import boolean, check_all, number, text, whole

FILE = "config.json"
T5, MT5, SWITCH = "t5", "mt5", "switch_transformers"

# transformers' activations -> Mesh TensorFlow's, whose GELU is the tanh approximation.
_ACTIVATIONS = {
    "relu": "relu",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "silu": "swish",
    "swish": "swish",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
# Settings that only transformers has. The other formats fix them to these values.
_CONSTANTS = {
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "router_bias": False,
    "router_dtype": "float32",
}
# The type and range of each value that is used. transformers may omit a value, or write null.
_RULES = {
    **{
        name: whole().or_none()
        for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers",
                     "num_decoder_layers", "relative_attention_num_buckets", "num_experts")
    },
    **{
        name: whole(0).or_none()
        for name in ("num_sparse_encoder_layers", "num_sparse_decoder_layers")
    },
    **{
        name: boolean().or_none()
        for name in ("tie_word_embeddings", "scale_decoder_outputs", "is_gated_act")
    },
    **{name: text().or_none() for name in ("feed_forward_proj", "dense_act_fn")},
    "dropout_rate": number(0, below=1),
    "router_jitter_noise": number(0, below=1),
}  # fmt: skip
# The number of tokens in a sequence that an expert accepts, as in the public copies. The other
# formats state a capacity factor instead, from which this number cannot be derived.
_EXPERT_CAPACITY = 64

Config = Mapping[str, Any]


def read_config(folder: str) -> Config:
    """Reads the config.json of a folder.

    Raises:
      UserError: If the file is missing, or does not describe a T5 or Switch Transformer.
    """
    path = os.path.join(folder, FILE)
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path} is not a file. Download it again.")
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} has no {FILE}, so it is not a model of transformers. Pass the folder "
            "that save_pretrained wrote, or that was downloaded from the hub."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type not in (T5, MT5, SWITCH):
        raise UserError(
            f"{path} describes a model of type {model_type!r}, but only {T5!r}, {MT5!r} and "
            f"{SWITCH!r} can be converted."
        )
    check_all(path, _RULES, config)
    for name, value in _CONSTANTS.items():
        if config.get(name, value) != value:
            raise UserError(
                f"{path} has {name} = {config[name]}, but Mesh TensorFlow's T5 has the fixed "
                f"value {value}. This model cannot be converted."
            )
    return config


def scales_logits(config: Config) -> bool:
    """Whether the decoder's output is scaled by d_model**-0.5, as T5 does with tied logits.

    transformers 5 has a separate flag for this in T5's configs, because it ties the logits
    unless the checkpoint contains weights for them.
    """
    tied = config.get("tie_word_embeddings", True) is not False
    return bool(config.get("scale_decoder_outputs", tied))


def reconcile(
    path: str, config: Config, inferred: Architecture
) -> tuple[Architecture, list[str]]:
    """Completes an inferred architecture with the config.

    Args:
      path: The folder, for error messages.
      config: The config of the model.
      inferred: The architecture that was inferred from the tensors.

    Returns:
      The architecture, and notes for the user.

    Raises:
      UserError: If config and tensors contradict each other, except for the known fault of a
        public copy.
    """
    public_checkpoints.check_gates(path, inferred)
    public = public_checkpoints.find_public(inferred)
    contradictions = _find_contradictions(config, inferred)
    notes = []
    if public and contradictions and set(contradictions) <= set(public.wrong_in_config):
        notes.append(public.fault)
    elif contradictions:
        texts = "; ".join(contradictions.values())
        raise UserError(f"{path} contradicts itself. {FILE} and the tensors differ: {texts}.")
    return dataclasses.replace(
        inferred,
        activations=_read_activations(path, config),
        dropout_rate=config.get("dropout_rate", inferred.dropout_rate),
        input_jitter=config.get("router_jitter_noise", inferred.input_jitter),
        capacity=public.capacity if public else inferred.capacity,
    ), notes


def _find_contradictions(config: Config, inferred: Architecture) -> dict[str, str]:
    """Returns key -> text for each value of the config that contradicts the tensors."""
    values = {
        "vocab_size": inferred.vocab_size,
        "d_model": inferred.d_model,
        "d_kv": inferred.d_kv,
        "d_ff": inferred.d_ff,
        "num_heads": inferred.num_heads,
        "num_layers": len(inferred.encoder),
        "num_decoder_layers": len(inferred.decoder),
        "relative_attention_num_buckets": inferred.num_buckets,
    }
    if config["model_type"] == SWITCH:
        values["num_experts"] = inferred.num_experts
    texts = {
        name: f"{name} is {config[name]}, but the tensors have {value}"
        for name, value in values.items()
        if config.get(name, value) not in (value, None)
    }
    if _is_gated(config) != inferred.gated:
        gated = {True: "gated (wi_0, wi_1)", False: "not gated (wi)"}
        texts["gated"] = (
            f"feed-forward layers are {gated[_is_gated(config)]}, but in the tensors they are "
            f"{gated[inferred.gated]}"
        )
    if config["model_type"] == SWITCH:
        for stack in STACKS:
            text = _find_sparse_contradiction(config, stack, getattr(inferred, stack))
            if text:
                texts[f"sparse {stack} blocks"] = text
    return texts


def _find_sparse_contradiction(
    config: Config, stack: str, sparse: tuple[bool, ...]
) -> str | None:
    name = f"num_sparse_{stack}_layers"
    if config.get(name) is None:
        return None
    blocks = config.get("num_layers") or len(sparse)
    if stack == "decoder":
        blocks = config.get("num_decoder_layers") or blocks
    stated = sparse_blocks(blocks, config[name])
    if stated == sparse:
        return None
    return (
        f"{name} is {config[name]}, with which {_describe_sparse(stated)} in the {stack}, but "
        f"in the tensors {_describe_sparse(sparse)}"
    )


def _describe_sparse(sparse: Sequence[bool]) -> str:
    """Says which blocks have experts, counted from 1: "blocks 1 and 3 of 4 have experts"."""
    numbers = [str(i + 1) for i in _list_sparse(sparse)]
    if not numbers:
        return f"none of the {len(sparse)} blocks has experts"
    if len(numbers) == len(sparse):
        return f"all {len(sparse)} blocks have experts"
    listed = " and ".join(filter(None, [", ".join(numbers[:-1]), numbers[-1]]))
    noun, verb = ("block", "has") if len(numbers) == 1 else ("blocks", "have")
    return f"{noun} {listed} of {len(sparse)} {verb} experts"


def _list_sparse(sparse: Sequence[bool]) -> list[int]:
    return [i for i, is_sparse in enumerate(sparse) if is_sparse]


def sparse_blocks(blocks: int, sparse_layers: int) -> tuple[bool, ...]:
    """Returns which blocks of a stack transformers makes sparse.

    From the second block on, every n-th block is sparse, with n = blocks // sparse_layers. Even
    with sparse_layers = 0, the second block is sparse.
    """
    step = blocks // sparse_layers if sparse_layers > 0 else blocks
    return tuple(step == 1 or (step > 0 and i % step == 1) for i in range(blocks))


def _is_gated(config: Config) -> bool:
    names = (config.get("feed_forward_proj") or "relu", config.get("dense_act_fn") or "")
    return bool(config.get("is_gated_act")) or any(n.startswith("gated") for n in names)


def _read_activations(path: str, config: Config) -> tuple[str, ...]:
    stated = config.get("feed_forward_proj") or config.get("dense_act_fn") or "relu"
    if config["model_type"] == SWITCH:  # its class reads dense_act_fn
        stated = config.get("dense_act_fn") or stated
    name = stated.split("-", 1)[-1]
    if stated == "gated-gelu":  # T5 1.1's name for the approximate GELU
        name = "gelu_new"
    if name not in _ACTIVATIONS:
        raise UserError(
            f"{os.path.join(path, FILE)} names the activation {stated!r}, which Mesh "
            "TensorFlow does not have. The activations that can be converted are "
            f"{', '.join(_ACTIVATIONS)}."
        )
    activation = _ACTIVATIONS[name]
    return (activation, "linear") if _is_gated(config) else (activation,)


def make_config(architecture: Architecture, dtype: str) -> dict[str, Any]:
    """Returns the config.json of a model.

    Raises:
      UserError: If transformers has no model of this architecture.
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
    return {**config, **(_make_switch_values(a) if a.num_experts else _make_t5_values(a))}


def _name_activation(architecture: Architecture) -> str:
    names = {mtf: hf for hf, mtf in reversed(_ACTIVATIONS.items())}
    first, *others = architecture.activations
    if first not in names or others not in ([], ["linear"]):
        raise UserError(
            "transformers' T5 has no feed-forward layer with the activations "
            f"{' x '.join(architecture.activations)}. It has {', '.join(names)}, each alone or "
            "multiplied with linear."
        )
    return names[first]


def _make_t5_values(architecture: Architecture) -> dict[str, Any]:
    activation = _name_activation(architecture)
    projection = activation
    if architecture.gated:
        projection = "gated-gelu" if activation == "gelu_new" else f"gated-{activation}"
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": T5,
        "feed_forward_proj": projection,
        "is_gated_act": architecture.gated,
        "dense_act_fn": activation,
    }


def _make_switch_values(architecture: Architecture) -> dict[str, Any]:
    if architecture.gated:
        raise UserError(
            "transformers' SwitchTransformersForConditionalGeneration has no gated "
            f"feed-forward layers ({' x '.join(architecture.activations)}). It would load such "
            "a checkpoint with random layers and only print a warning. T5X has gated layers: "
            "convert to t5x."
        )
    counts = {stack: _count_sparse_layers(stack, architecture) for stack in STACKS}
    activation = _name_activation(architecture)
    return {
        "architectures": ["SwitchTransformersForConditionalGeneration"],
        "model_type": SWITCH,
        "feed_forward_proj": activation,
        "dense_act_fn": activation,
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


def _count_sparse_layers(stack: str, architecture: Architecture) -> int:
    """Returns the number of sparse layers that makes transformers build the same stack."""
    sparse = getattr(architecture, stack)
    blocks = len(sparse)
    possible = [n for n in range(blocks + 1) if sparse_blocks(blocks, n) == sparse]
    if not possible:
        raise UserError(
            "transformers' Switch Transformer makes every n-th block of a stack sparse, "
            f"counting from the second, and at least one. In the {stack} of this model, "
            f"{_describe_sparse(sparse)}, which transformers cannot build. Convert to t5x, or "
            "train a model such as models/switch_base_released_tiny.gin, which has experts in "
            "every other block of both stacks."
        )
    return possible[-1]
