"""Random checkpoints of each format, and readers that share no code with the project's."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow.compat.v1 as tf
import tensorstore
from flax import serialization
from safetensors.numpy import load_file

from mtf_switch.conversion import formats
from mtf_switch.conversion.architecture import Architecture
from mtf_switch.conversion.tensor_names import TensorRef

FLOAT32, BFLOAT16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)


def make_architecture(
    encoder: str = "ds",
    decoder: str = "ds",
    experts: int = 4,
    activations: tuple[str, ...] = ("relu",),
    tied: bool = True,
    **others: Any,
) -> Architecture:
    """Returns a tiny architecture; each block is given as "d" (dense) or "s" (sparse)."""
    sizes = {"vocab_size": 128, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 3}
    return Architecture(
        encoder=tuple(block == "s" for block in encoder),
        decoder=tuple(block == "s" for block in decoder),
        num_experts=experts,
        activations=activations,
        tied_logits=tied,
        **{**sizes, **others},
    )


SWITCH = make_architecture()
TWELVE = make_architecture("dsds", "ds", experts=12)
UNTIED = make_architecture("ss", "ss", tied=False)
GATED = make_architecture("ds", "ds", activations=("gelu", "linear"), tied=False)
T5 = make_architecture("dd", "ddd", experts=0)
T5_1_1 = make_architecture("dd", "dd", experts=0, activations=("gelu", "linear"), tied=False)


class RandomSource:
    """A `Source` whose tensors are random, each drawn from its own name."""

    def __init__(self, architecture: Architecture, step: int = 7):
        """Makes a source of float32 tensors."""
        self.architecture = architecture
        self.dtype = "float32"
        self.step = step
        self.notes = []

    def read_tensor(self, ref: TensorRef) -> np.ndarray:
        """Draws a tensor."""
        seed = zlib.crc32(f"{ref.row.key} {ref.block} {ref.expert}".encode())
        values = np.random.default_rng(seed).standard_normal(self.architecture.shape(ref))
        return values.astype(np.float32)


def write_checkpoint(
    format: str, folder: Path, architecture: Architecture, dtype=FLOAT32, step: int = 7
) -> Path:
    """Writes the tensors of a `RandomSource`, and returns the folder."""
    folder.mkdir(parents=True)
    source = RandomSource(architecture, step)
    target = formats.load_classes(format).target(str(folder), architecture, dtype, step)
    for ref in architecture.tensors_by_expert():
        target.write_tensor(ref, source.read_tensor(ref))
    target.finish()
    return folder


def read_tensors(format: str, folder: Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a checkpoint under their stored names."""
    return {"hf": _read_hf, "t5x": _read_t5x, "mtf": read_mtf}[format](folder)


def _read_hf(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(str(file)))
    return found


def _read_t5x(folder: Path) -> dict[str, np.ndarray]:
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


def read_mtf(path: Path) -> dict[str, np.ndarray]:
    """Reads all variables of a model_dir's latest checkpoint, or of the checkpoint at a path."""
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def write_mtf(path: Path, variables: Mapping[str, np.ndarray]) -> Path:
    """Writes a checkpoint of Mesh TensorFlow with TensorFlow alone."""
    path.parent.mkdir(exist_ok=True)
    with tf.Graph().as_default(), tf.Session() as session:
        created = [tf.get_variable(name, initializer=v) for name, v in variables.items()]
        session.run(tf.global_variables_initializer())
        tf.train.Saver(created).save(session, str(path))
    return path


def assert_bit_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Compares names, dtypes, shapes and bits."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        assert array.shape == other[name].shape, name
        assert array.tobytes() == other[name].tobytes(), name
