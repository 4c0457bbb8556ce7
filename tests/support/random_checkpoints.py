"""Random checkpoints in each format, and readers of them that share no code with the project's."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow.compat.v1 as tf
import tensorstore
from flax import serialization
from safetensors.numpy import load_file

from mtf_switch.conversion.architecture import Architecture
from mtf_switch.conversion.hf_checkpoint import HfTarget
from mtf_switch.conversion.mtf_checkpoint import MtfTarget
from mtf_switch.conversion.t5x_checkpoint import T5xTarget

FLOAT32, BFLOAT16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
_TARGETS = {"hf": HfTarget, "t5x": T5xTarget, "mtf": MtfTarget}


def architecture(
    encoder: str = "ds",
    decoder: str = "ds",
    experts: int = 4,
    activations: tuple[str, ...] = ("relu",),
    tied: bool = True,
    **others: Any,
) -> Architecture:
    """A tiny one; blocks are given as "d" (dense) and "s" (sparse)."""
    return Architecture(
        vocab_size=128,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_heads=3,
        encoder=tuple(block == "s" for block in encoder),
        decoder=tuple(block == "s" for block in decoder),
        num_experts=experts,
        activations=activations,
        tied_logits=tied,
        **others,
    )


SWITCH = architecture()
TWELVE = architecture("dsds", "ds", experts=12)
UNTIED = architecture("ss", "ss", tied=False)
GATED = architecture("ds", "ds", activations=("gelu", "linear"), tied=False)
T5 = architecture("dd", "ddd", experts=0)
T5_1_1 = architecture("dd", "dd", experts=0, activations=("gelu", "linear"), tied=False)


def write(format: str, folder: Path, model: Architecture, dtype=FLOAT32, step: int = 7) -> Path:
    """Writes random tensors, each drawn from its own name."""
    folder.mkdir(parents=True)
    target = _TARGETS[format](str(folder), model, dtype, step)
    for ref in model.tensors_by_expert():
        seed = zlib.crc32(f"{ref.row.key} {ref.block} {ref.expert}".encode())
        values = np.random.default_rng(seed).standard_normal(model.shape(ref))
        target.write_tensor(ref, values.astype(np.float32))
    target.finish()
    return folder


def tensors(format: str, folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, by their own names, with the libraries alone."""
    return {"hf": _hf, "t5x": _t5x, "mtf": _mtf}[format](folder)


def _hf(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(str(file)))
    return found


def _t5x(folder: Path) -> dict[str, np.ndarray]:
    (checkpoint,) = folder.glob("checkpoint_*")
    index = serialization.msgpack_restore((checkpoint / "checkpoint").read_bytes())
    assert index["version"] == 3
    found = {"step": np.asarray(index["optimizer"]["state"]["step"])}

    def walk(tree, prefix):
        for name, leaf in tree.items():
            if isinstance(leaf, dict) and "driver" not in leaf:
                walk(leaf, f"{prefix}{name}/")
            elif isinstance(leaf, dict):
                path = str(checkpoint / leaf["kvstore"]["path"])
                spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": path}}
                found[prefix + name] = tensorstore.open(spec).result().read().result()
            else:
                found[prefix + name] = leaf

    walk(index["optimizer"]["target"], "target/")
    return found


def _mtf(folder: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(folder))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_bit_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """The same names, dtypes, shapes and bits."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        assert array.shape == other[name].shape, name
        assert array.tobytes() == other[name].tobytes(), name
