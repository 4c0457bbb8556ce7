"""A damaged or foreign source is reported in one message, and nothing is written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import random_checkpoints
from safetensors.numpy import load_file, save_file

from mtf_switch.conversion import hf_checkpoint
from mtf_switch.errors import UserError


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Intact checkpoints: hf (in two files), t5x and mtf. Tests damage copies of them."""
    folder = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_checkpoint, "SHARD_BYTES", 40_000)
        for format in ("hf", "t5x", "mtf"):
            random_checkpoints.write_checkpoint(
                format, folder / format, random_checkpoints.SWITCH
            )
    return folder


def remove(folder: Path, *patterns: str) -> None:
    """Removes the files of a folder that match any of the patterns."""
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def remove_tensor(name: str, folder: Path) -> None:
    """Removes a tensor from its file and from the index."""
    index = json.loads((folder / hf_checkpoint.INDEX).read_text())
    file = folder / index["weight_map"].pop(name)
    (folder / hf_checkpoint.INDEX).write_text(json.dumps(index))
    kept = load_file(str(file))
    del kept[name]
    save_file(kept, str(file))


def add_tensor(folder: Path, name: str, array: np.ndarray) -> None:
    save_file({name: array}, str(folder / "more.safetensors"))
    index = json.loads((folder / hf_checkpoint.INDEX).read_text())
    index["weight_map"][name] = "more.safetensors"
    (folder / hf_checkpoint.INDEX).write_text(json.dumps(index))


def edit_weight_map(folder: Path, name: str, file: object) -> None:
    index = folder / hf_checkpoint.INDEX
    weight_map = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map={**weight_map, name: file})


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
Q = "encoder.block.0.layer.0.SelfAttention.q.weight"
ARRAY = "checkpoint_7/target.encoder.layers_1.mlp.expert.wi.kernel"
EMBEDDING = "checkpoint_7/target.token_embedder.embedding"

DAMAGES = [
    ("hf", lambda d: cut(d / SECOND), r"model-00002-of-00002.safetensors cannot be read: .*It is damaged, or its download did not finish"),
    ("hf", lambda d: (d / SECOND).unlink(), r"lacks 1 of the 2 files that model.safetensors.index.json names:\n  model-00002-of"),
    ("hf", lambda d: cut(d / hf_checkpoint.INDEX), r"index.json is not an index of safetensors files"),
    ("hf", lambda d: shutil.copy(d / FIRST, d / SECOND), r"does not contain .*, although model.safetensors.index.json says so"),
    ("hf", lambda d: remove_tensor(Q, d), r"has no tensor 'encoder/attention/q' in block 0, so it is not"),
    ("hf", lambda d: remove_tensor(Q.replace("0", "1", 1), d), r"missing \(1\):\n  encoder.block.1.layer.0.SelfAttention.q.weight"),
    ("hf", lambda d: remove_tensor("decoder.block.1.layer.2.mlp.experts.expert_3.wi.weight", d), r"missing \(1\):\n  decoder.block.1.layer.2.mlp.experts.expert_3.wi.weight"),
    ("hf", lambda d: add_tensor(d, "lora.weight", np.ones(3)), r"1 tensors that no T5 or Switch Transformer has. No tensor is dropped silently, .*:\n  lora.weight \[3\]"),
    ("hf", lambda d: add_tensor(d, "decoder.block.1.layer.2.mlp.experts.expert_4.wi.weight", np.ones((24, 16), np.float32)), r"unexpected \(1\):\n  decoder.block.1.layer.2.mlp.experts.expert_4.wi.weight"),
    ("hf", lambda d: add_tensor(d, "encoder.block.0.layer.1.DenseReluDense.wi.weight", np.ones((24, 16), np.float32)), r"1 tensors that no T5 or Switch Transformer has.*:\n  encoder.block.0.layer.1.DenseReluDense.wi.weight"),
    ("hf", lambda d: add_tensor(d, Q, np.ones((13, 16), np.float32)), r"SelfAttention.q.weight is \[16, 13\], not \[16, 12\]"),
    ("hf", lambda d: add_tensor(d, Q, np.ones((12, 16), np.int8)), r"tensors of type I8, .* before it is quantized"),
    ("hf", lambda d: add_tensor(d, "decoder.embed_tokens.weight", np.ones((128, 16), np.float32)), r"decoder.embed_tokens.weight in .* differs from shared.weight"),
    ("hf", lambda d: add_tensor(d, "lm_head.weight", np.ones((128, 16), np.float32)), r"ties the logits to the embedding, but lm_head.weight differs from it"),
    ("hf", lambda d: edit(d / "config.json", d_ff=32, num_experts=8), r"contradicts itself. config.json and the tensors differ: d_ff is 32, but the tensors have 24; num_experts is 8, but the tensors have 4"),
    ("hf", lambda d: edit(d / "config.json", num_sparse_encoder_layers=2), r"num_sparse_encoder_layers is 2, with which all 2 blocks have experts in the encoder, but in the tensors block 2 of 2 has experts"),
    ("hf", lambda d: edit(d / "config.json", is_gated_act=True), r"feed-forward layers are gated \(wi_0, wi_1\), but in the tensors they are not gated \(wi\)"),
    ("hf", lambda d: edit(d / "config.json", dense_act_fn="gelu"), r"names the activation 'gelu', which Mesh TensorFlow does not have"),
    ("hf", lambda d: edit(d / "config.json", model_type="mixtral"), r"a model of type 'mixtral', but only 't5', 'mt5' and 'switch_transformers' can be converted"),
    ("hf", lambda d: edit(d / "config.json", router_bias=True), r"router_bias = True, but Mesh TensorFlow's T5 has the fixed value False"),
    ("hf", lambda d: cut(d / "config.json"), r"config.json cannot be read"),
    ("hf", lambda d: (d / "config.json").unlink(), r"has no config.json, so it is not a model of transformers"),
    ("hf", lambda d: [(d / name).unlink() for name in (FIRST, SECOND, hf_checkpoint.INDEX)], r"contains neither model.safetensors nor"),
    ("t5x", lambda d: cut(d / "checkpoint_7" / "checkpoint"), r"is not the index of a T5X checkpoint"),
    ("t5x", lambda d: (d / "checkpoint_7" / "checkpoint").write_text('model_checkpoint_path: "x"'), r"is TensorFlow's list of checkpoints: convert it with --from=mtf"),
    ("t5x", lambda d: (d / "checkpoint_7" / "checkpoint").unlink(), r"contains no T5X checkpoint: it has neither a file 'checkpoint'"),
    ("t5x", lambda d: shutil.rmtree(d / ARRAY), r"layers_1.mlp.expert.wi.kernel cannot be opened: it is missing or damaged"),
    ("t5x", lambda d: (d / ARRAY / "2.0.0").unlink(), r"expert.wi.kernel lacks some of its 4 files, such as 2.0.0"),
    ("t5x", lambda d: cut(d / ARRAY / "2.0.0"), r"expert/wi/kernel cannot be read from"),
    # Programs in data, values of wrong types, and files that do not end.
    ("hf", lambda d: edit(d / "config.json", dropout_rate="0.0\ninclude 'extra.gin'"), r"config.json.dropout_rate is \"0.0\\ninclude 'extra.gin'\", but it must be a finite number at least 0 and below 1"),
    ("hf", lambda d: edit(d / "config.json", router_jitter_noise=float("nan")), r"router_jitter_noise is nan, but it must be a finite number"),
    ("hf", lambda d: edit(d / "config.json", num_layers="2"), r"num_layers is '2', but it must be a whole number of at least 1, or None"),
    ("hf", lambda d: edit(d / "config.json", num_sparse_encoder_layers=[1]), r"num_sparse_encoder_layers is \[1\], but it must be a whole"),
    ("hf", lambda d: edit(d / "config.json", dense_act_fn={"a": 1}), r"dense_act_fn is {'a': 1}, but it must be a text"),
    ("hf", lambda d: edit_weight_map(d, Q, "../escape.safetensors"), r"is in '../escape.safetensors', but files of weights are in the folder of the index"),
    ("hf", lambda d: edit_weight_map(d, Q, 5), r"is in 5, but files of weights"),
    ("hf", lambda d: edit(d / hf_checkpoint.INDEX, weight_map=["a"]), r"its weight_map is list, not a map"),
    ("hf", lambda d: replace_by_pipe(d / "config.json"), r"config.json is not a file"),
    ("t5x", lambda d: edit(d / ARRAY / ".zarray", shape=[2**30, 16, 24], chunks=[1, 16, 24]), r"lacks some of its 1073741824 files, such as 4.0.0"),
    ("t5x", lambda d: edit(d / ARRAY / ".zarray", shape=[2**30, 16, 24], chunks=[1, 16, 24], fill_value=0.0), r"has 1073741824 files, but only 4 are there, and its fill_value may stand for at most"),
    ("t5x", lambda d: edit(d / EMBEDDING / ".zarray", shape=[2**40, 16], fill_value=0), r"has 8589934592 files, but only 1 are there"),
    ("t5x", lambda d: edit(d / EMBEDDING / ".zarray", shape=[2**40, 16], chunks=[2**40, 16], fill_value=0), r"needs 65536.0 GiB"),
    ("t5x", lambda d: edit(d / ARRAY / ".zarray", shape=[5, 16, 24], fill_value=0.0), r"wi"),
    ("t5x", lambda d: edit(d / ARRAY / ".zarray", chunks="1"), r"zarray.chunks is '1', but it must be a list of whole numbers of at least 1"),
    ("t5x", lambda d: edit(d / ARRAY / ".zarray", shape=[4, 0.5]), r"zarray.shape is \[4, 0.5\], but it must be a list"),
    ("t5x", lambda d: edit(d / ARRAY / ".zarray", chunks=[]), r"does not describe a zarr array"),
    ("t5x", lambda d: (d / ARRAY / ".zarray").write_text("[1]"), r"it is not a map"),
    ("t5x", lambda d: cut(d / ARRAY / ".zarray"), r"cannot be opened: .*.zarray is damaged"),
    ("t5x", lambda d: replace_by_pipe(d / ARRAY / ".zarray"), r".zarray is neither a file nor a folder"),
    ("t5x", lambda d: (d / "config.gin").write_text("DROPOUT_RATE = '0.1'"), r"config.gin.dropout_rate is '0.1', but it must be a finite number"),
    ("t5x", lambda d: (d / "config.gin").write_text("MlpBlock.activations = 5"), r"activations is 5, but it must be one or two names of activations"),
    ("t5x", lambda d: (d / "config.gin").write_text("MoeLayer.min_expert_capacity = 'a'"), r"min_expert_capacity is 'a', but it must be a whole number"),
    ("mtf", lambda d: cut(d / "model.ckpt-7.index"), r"model.ckpt-7 cannot be read"),
    ("mtf", lambda d: cut(d / "model.ckpt-7.data-00000-of-00001"), r"model.ckpt-7 cannot be read: Read less bytes than requested"),
    ("mtf", lambda d: (d / "model.ckpt-7.index").unlink(), r"model.ckpt-7"),
    ("mtf", lambda d: remove(d, "checkpoint", "model.ckpt-*"), r"holds no checkpoint yet"),
    ("mtf", lambda d: (d / "config.gin").write_text("DenseReluDense.activation = ['gelu', 'linear']"), r"activations gelu x linear, but in the checkpoint each has one input matrix"),
    ("mtf", lambda d: (d / "config.gin").write_text("a = = 3"), r"The gin file .*config.gin cannot be read"),
]  # fmt: skip


def contents_of_files(folder: Path) -> dict[Path, bytes]:
    """The bytes of every file below a folder; a read of a named pipe would not end."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("format", "damage", "message"), DAMAGES)
def test_a_damaged_or_foreign_source_is_reported_in_one_message_and_leaves_nothing(
    tiny, sources, format, damage, message, tmp_path
):
    source = tmp_path / "source"
    shutil.copytree(sources / format, source)
    damage(source)
    before = contents_of_files(source)
    to = "t5x" if format != "t5x" else "hf"
    outcome = tiny.command("convert", f"--from={format}", f"--to={to}", source, tmp_path / "to")
    assert outcome.code == 1
    with pytest.raises(UserError, match=f"(?s){message}"):
        raise UserError(outcome.err)
    assert "Traceback" not in outcome.err
    assert contents_of_files(source) == before
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_pickle_is_never_loaded(tiny, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "t5"}')
    (source / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch loaded'\ntR.")
    outcome = tiny.command("convert", "--from=hf", "--to=mtf", source, tmp_path / "to")
    assert outcome.code == 1
    assert "contains pytorch_model.bin, which is a pickle. Reading a pickle runs" in outcome.err
    assert "save_pretrained(" in outcome.err
