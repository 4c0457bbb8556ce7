"""Folders as T5X's own code writes them, and the forms that an index may have."""

from __future__ import annotations

import shutil
from pathlib import Path

import conversions
import numpy as np
import pytest
import random_checkpoints
import tensorstore
from flax import serialization
from random_checkpoints import assert_bit_equal, read_tensors

from mtf_switch.errors import UserError


def as_t5x_saves(checkpoint: Path, target: dict[str, np.ndarray], step: int) -> None:
    """Writes a folder as T5X's code does: small arrays in the index, gzip, optimizer state."""
    optimizer = {"target": {}, "state": {"step": np.int32(step), "param_states": {}}}

    def put(tree, name, leaf):
        *parents, last = name.split("/")
        for parent in parents:
            tree = tree.setdefault(parent, {})
        tree[last] = leaf

    for name, array in target.items():
        if array.ndim == 1:
            put(optimizer["target"], name, array)
            continue
        path = f"target.{name.replace('/', '.')}"
        spec = {
            "driver": "zarr",
            "dtype": array.dtype.name,
            "kvstore": {"driver": "file", "path": str(checkpoint / path)},
            "metadata": {
                "shape": list(array.shape),
                "chunks": [max(1, n // 2) for n in array.shape],
                "compressor": {"id": "gzip"},
            },
        }
        tensorstore.open(spec, create=True).result().write(array).result()
        # T5X writes to a bucket under another name, and makes paths relative.
        spec["kvstore"] = {"driver": "gcs", "bucket": "t5x-dummy-bucket", "path": path}
        put(optimizer["target"], name, spec)
        put(optimizer["state"]["param_states"], name + "/v", np.zeros(3, np.float32))
    index = serialization.to_bytes({"version": 3, "optimizer": optimizer})
    (checkpoint / "checkpoint").write_bytes(index)


def as_transformers_reads_t5x(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """T5X's arrays from transformers' tensors, by the rules of transformers' own converter.

    It renames from T5X to transformers; this is an independent inverse. Every kernel is
    the transpose of a weight, the relative-position bias too, and experts are stacked.
    """
    found: dict[str, np.ndarray] = {}
    experts: dict[str, dict[int, np.ndarray]] = {}
    fixed = {
        "shared.weight": "token_embedder/embedding",
        "lm_head.weight": "decoder/logits_dense/kernel",
        "encoder.final_layer_norm.weight": "encoder/encoder_norm/scale",
        "decoder.final_layer_norm.weight": "decoder/decoder_norm/scale",
    }
    letters = {"q": "query", "k": "key", "v": "value", "o": "out"}
    for name, weight in weights.items():
        if name.endswith("embed_tokens.weight"):
            continue
        if name in fixed:
            found[fixed[name]] = weight.T if name == "lm_head.weight" else weight
            continue
        stack, _, block, _, layer, *rest = name.split(".")
        prefix = f"{stack}/layers_{block}"
        part = {"0": "attention", "1": "cross", "2": "mlp"}[layer]
        if stack == "encoder" and layer == "1":
            part = "mlp"
        if rest[0] == "layer_norm":
            norm = {"attention": "self_attention", "cross": "cross_attention"}.get(part, part)
            norm = "attention" if (stack, part) == ("encoder", "attention") else norm
            found[f"{prefix}/pre_{norm}_layer_norm/scale"] = weight
        elif rest[1] == "relative_attention_bias":
            found[f"{stack}/relpos_bias/rel_embedding"] = weight.T
        elif part in ("attention", "cross"):
            module = {"attention": "self_attention", "cross": "encoder_decoder_attention"}[part]
            module = "attention" if stack == "encoder" else module
            found[f"{prefix}/{module}/{letters[rest[1]]}/kernel"] = weight.T
        elif rest[1] == "router":
            found[f"{prefix}/mlp/router/router_weights/w/kernel"] = weight.T
        elif rest[1] == "experts":
            number = int(rest[2].split("_")[1])
            experts.setdefault(f"{prefix}/mlp/expert/{rest[3]}/kernel", {})[number] = weight.T
        else:
            found[f"{prefix}/mlp/{rest[1]}/kernel"] = weight.T
    for name, kernels in experts.items():
        found[name] = np.stack([kernels[i] for i in range(len(kernels))])
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


@pytest.mark.parametrize("name", ["switch_tied_12_sharded", "switch_untied_4_gated", "t5_1_1"])
def test_what_t5x_itself_saves_gives_the_model_that_transformers_has_of_it(name, tmp_path):
    golden = Path(__file__).parents[1] / "goldens" / name
    checkpoint = tmp_path / "model" / "checkpoint_611800"
    checkpoint.mkdir(parents=True)
    as_t5x_saves(checkpoint, as_transformers_reads_t5x(read_tensors("hf", golden)), 611_800)
    # The parent folder may be given as well.
    conversions.convert("t5x", "mtf", tmp_path / "model", tmp_path / "t5x")
    conversions.convert("hf", "mtf", golden, tmp_path / "hf")
    from_t5x, from_hf = (read_tensors("mtf", tmp_path / source) for source in ("t5x", "hf"))
    assert (from_t5x.pop("global_step"), from_hf.pop("global_step")) == (611_800, 0)
    assert_bit_equal(from_t5x, from_hf)


@pytest.fixture(scope="module")
def t5x_folder(tmp_path_factory) -> Path:
    """A checkpoint of T5X; never to be written to."""
    folder = tmp_path_factory.mktemp("source") / "t5x"
    return random_checkpoints.write_checkpoint("t5x", folder, random_checkpoints.SWITCH)


@pytest.fixture(scope="module")
def as_hf(t5x_folder, tmp_path_factory) -> dict[str, np.ndarray]:
    """Its tensors, converted to transformers'."""
    target = tmp_path_factory.mktemp("target") / "hf"
    conversions.convert("t5x", "hf", t5x_folder, target)
    return read_tensors("hf", target)


def rewrite_index(source: Path, folder: Path, change) -> None:
    """Copies a checkpoint and changes the copy's index."""
    shutil.copytree(source, folder)
    path = folder / "checkpoint_7" / "checkpoint"
    index = serialization.msgpack_restore(path.read_bytes())
    path.write_bytes(serialization.msgpack_serialize(change(index)))


def each_leaf(tree, change):
    if "driver" in tree:
        return change(tree)
    return {name: each_leaf(leaf, change) for name, leaf in tree.items()}


def changed_target(change):
    def changed(index):
        optimizer = index["optimizer"]
        target = each_leaf(optimizer["target"], change)
        return {**index, "optimizer": {**optimizer, "target": target}}

    return changed


@pytest.mark.parametrize(
    "change",
    [
        # As Orbax writes for T5X.
        changed_target(lambda spec: "PLACEHOLDER://" + spec["kvstore"]["path"]),
        # As tensorstore wrote it before 0.1.14.
        changed_target(
            lambda spec: {
                **spec,
                "kvstore": {"driver": "gfile"},
                "path": spec["kvstore"]["path"],
            }
        ),
        # The first version: no optimizer around it.
        lambda index: index["optimizer"],
    ],
    ids=["orbax", "old_tensorstore", "first_version"],
)
def test_older_and_newer_ways_of_saying_where_an_array_is(t5x_folder, as_hf, change, tmp_path):
    rewrite_index(t5x_folder, tmp_path / "rewritten", change)
    conversions.convert("t5x", "hf", tmp_path / "rewritten", tmp_path / "hf")
    assert_bit_equal(as_hf, read_tensors("hf", tmp_path / "hf"))


def test_a_version_that_kept_bfloat16_as_integers_is_refused(t5x_folder, tmp_path):
    rewrite_index(t5x_folder, tmp_path / "old", lambda index: {**index, "version": 2})
    with pytest.raises(UserError, match="has version 2 of T5X's format"):
        conversions.convert("t5x", "mtf", tmp_path / "old", tmp_path / "to")


def test_the_latest_of_several_steps_is_taken(tmp_path):
    model = random_checkpoints.make_architecture("d", "d", experts=0)
    for step in (9, 10):
        random_checkpoints.write_checkpoint("t5x", tmp_path / str(step), model, step=step)
        (tmp_path / str(step) / f"checkpoint_{step}").rename(tmp_path / f"checkpoint_{step}")
    assert conversions.convert("t5x", "hf", tmp_path, tmp_path / "latest").step == 10
    nine = tmp_path / "checkpoint_9"
    assert conversions.convert("t5x", "hf", nine, tmp_path / "nine").step == 9
