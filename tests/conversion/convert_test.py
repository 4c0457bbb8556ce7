"""`convert`: what comes out is what went in, all of it, or nothing comes out at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import big_checkpoint
import numpy as np
import pytest
import random_checkpoints as random_models
from random_checkpoints import BFLOAT16, FLOAT32, assert_bit_equal, tensors
from safetensors.numpy import load_file, save_file
from tiny_run import TinyRun, contents

from mtf_switch.config import gin_config, gin_files, run_settings, saved_config
from mtf_switch.conversion import hf_checkpoint
from mtf_switch.conversion.convert import ConversionRequest, convert_checkpoint
from mtf_switch.errors import UserError

ROUND_TRIPS = [
    ("hf", "mtf", random_models.SWITCH, FLOAT32),
    ("hf", "mtf", random_models.TWELVE, BFLOAT16),
    ("hf", "mtf", random_models.UNTIED, FLOAT32),
    ("hf", "mtf", random_models.T5, FLOAT32),
    ("hf", "mtf", random_models.T5_1_1, FLOAT32),
    ("t5x", "mtf", random_models.SWITCH, FLOAT32),
    ("t5x", "mtf", random_models.TWELVE, BFLOAT16),
    ("t5x", "mtf", random_models.GATED, FLOAT32),
    ("t5x", "mtf", random_models.T5_1_1, FLOAT32),
    ("hf", "t5x", random_models.TWELVE, BFLOAT16),
    ("mtf", "t5x", random_models.GATED, FLOAT32),
]


@pytest.mark.parametrize(("one", "other", "model", "dtype"), ROUND_TRIPS)
def test_a_round_trip_gives_the_same_bits(one, other, model, dtype, tmp_path):
    start = random_models.write(one, tmp_path / "start", model, dtype)
    there = convert_checkpoint(
        ConversionRequest(one, other, str(start), str(tmp_path / "there"))
    )
    # Through Mesh TensorFlow, whose variables are float32, bfloat16 has to be asked for again.
    convert_checkpoint(
        ConversionRequest(
            other, one, str(tmp_path / "there"), str(tmp_path / "back"), dtype.name
        )
    )
    assert there.step == 7
    assert there.architecture.parameters == model.parameters
    assert_bit_equal(tensors(one, start), tensors(one, tmp_path / "back"))


def test_experts_are_stacked_by_number_not_by_name(tmp_path):
    start = random_models.write("hf", tmp_path / "start", random_models.TWELVE)
    convert_checkpoint(ConversionRequest("hf", "mtf", str(start), str(tmp_path / "mtf")))
    apart, stacked = tensors("hf", start), tensors("mtf", tmp_path / "mtf")
    wi = stacked["encoder/block_001/layer_003/SwitchFFN/wi/kernel"]
    for expert in range(12):
        name = f"encoder.block.3.layer.1.mlp.experts.expert_{expert}.wi.weight"
        np.testing.assert_array_equal(wi[expert], apart[name].T)


def test_every_variable_of_the_model_is_in_the_checkpoint_and_no_other(tmp_path):
    import converted_model
    import hf_models

    random_models.write("t5x", tmp_path / "t5x", random_models.GATED)
    convert_checkpoint(
        ConversionRequest("t5x", "mtf", str(tmp_path / "t5x"), str(tmp_path / "mtf"))
    )
    graph = converted_model.run(tmp_path / "mtf", **hf_models.ids(), decode=False).variables
    stored = tensors("mtf", tmp_path / "mtf")
    assert graph == {n: list(array.shape) for n, array in stored.items() if n != "global_step"}


@pytest.mark.parametrize("target", ["hf", "t5x", "mtf"])
def test_dtype_rounds_to_the_nearest(target, tmp_path):
    start = random_models.write("t5x", tmp_path / "start", random_models.SWITCH)
    convert_checkpoint(
        ConversionRequest("t5x", target, str(start), str(tmp_path / "to"), "bfloat16")
    )
    convert_checkpoint(
        ConversionRequest(target, "t5x", str(tmp_path / "to"), str(tmp_path / "back"))
    )
    exact, rounded = tensors("t5x", start), tensors("t5x", tmp_path / "back")
    for name, array in exact.items():
        if name != "step":
            assert rounded[name].dtype == BFLOAT16
            assert rounded[name].tobytes() == array.astype(BFLOAT16).tobytes()


# --- what the commands do with it


def run_of(tiny: TinyRun) -> list[str]:
    """Gin bindings of a run on the tiny corpus."""
    return [
        "MIXTURE_NAME = 'text_files'",
        f"text_files.files = {str(tiny.corpus)!r}",
        "text_files.vocab_size = 300",
        "utils.run.sequence_length = {'inputs': 32, 'targets': 16}",
        "mesh_train_dataset_fn.pack = False",
        "ExpertCapacity.group_size = 64",
    ]


@pytest.fixture(scope="module")
def there_and_back(tiny, trained, tmp_path_factory) -> Path:
    """A folder with `hf`, the trained model as transformers', and `mtf`, that one back again."""
    folder = tmp_path_factory.mktemp("converted")
    exported = tiny.command("convert", "--from=mtf", "--to=hf", trained, folder / "hf")
    assert exported.code == 0, exported.err
    params = [f"--gin_param={param}" for param in run_of(tiny)]
    back = tiny.command(
        "convert", "--from=hf", "--to=mtf", folder / "hf", folder / "mtf", *params
    )
    assert back.code == 0, back.err
    assert "parameters    25,024, float32\nstep          6\n" in back.out
    return folder


def test_eval_predict_score_and_train_run_on_it_with_no_further_flags(
    tiny, trained, there_and_back, tmp_path
):
    model_dir = tmp_path / "mtf"
    shutil.copytree(there_and_back / "mtf", model_dir)
    params = ["ExpertCapacity.group_size = 64"]
    results = []
    for folder in (trained, model_dir):
        outcome = tiny.command("eval", f"--model_dir={folder}", f"--gin_param={params[0]}")
        assert outcome.code == 0, outcome.err
        results.append(json.loads((folder / "eval.json").read_text()))
    # The same weights, the same batches: the same sums in the same order.
    assert results[0] == results[1]
    (tmp_path / "in.txt").write_text("ba do ki\nlu me\n")
    (tmp_path / "of.txt").write_text("ba do\nlu\n")
    files = [f"--input_file={tmp_path / 'in.txt'}"]
    for command, more in (("predict", []), ("score", [f"--target_file={tmp_path / 'of.txt'}"])):
        output = tmp_path / f"{command}.txt"
        outcome = tiny.command(
            command, f"--model_dir={model_dir}", f"--output_file={output}", *files, *more
        )
        assert outcome.code == 0, outcome.err
        assert len(output.read_text().splitlines()) == 2
    # Training goes on from its step, with an optimizer that starts afresh.
    outcome = tiny.command("train", f"--model_dir={model_dir}", "--steps=8")
    assert outcome.code == 0, outcome.err
    assert "is at step 8" in outcome.out
    assert any("_slot_" in name for name in tensors("mtf", model_dir))


def test_the_run_of_a_converted_model_is_that_of_its_gin_file(tmp_path):
    start = random_models.write("hf", tmp_path / "start", random_models.SWITCH)
    convert_checkpoint(ConversionRequest("hf", "mtf", str(start), str(tmp_path / "mtf")))
    saved_config.load(str(tmp_path / "mtf"))
    settings = run_settings.from_gin()
    assert settings.task == "c4_v220_span_corruption"
    assert settings.batch_size == 8
    assert settings.learning_rate_schedule == 0.001
    # The configuration holds still: train compares it with what it gets.
    assert gin_config.to_text() == (tmp_path / "mtf" / "config.gin").read_text()
    # model.gin is a model like those in gin/models/.
    gin_config.parse([str(tmp_path / "mtf" / "model.gin"), "runs/embedded.gin"], [])


# --- mistakes


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Whole checkpoints to do damage to copies of: hf (in two files), t5x, mtf."""
    folder = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_checkpoint, "SHARD_BYTES", 40_000)
        random_models.write("hf", folder / "hf", random_models.SWITCH)
    random_models.write("t5x", folder / "t5x", random_models.SWITCH)
    random_models.write("mtf", folder / "mtf", random_models.SWITCH)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without(name: str, folder: Path) -> None:
    """Takes a tensor out of the file that holds it, and out of the index."""
    index = json.loads((folder / hf_checkpoint.INDEX).read_text())
    file = folder / index["weight_map"].pop(name)
    (folder / hf_checkpoint.INDEX).write_text(json.dumps(index))
    kept = load_file(str(file))
    del kept[name]
    save_file(kept, str(file))


def add(folder: Path, name: str, array: np.ndarray) -> None:
    save_file({name: array}, str(folder / "more.safetensors"))
    index = json.loads((folder / hf_checkpoint.INDEX).read_text())
    index["weight_map"][name] = "more.safetensors"
    (folder / hf_checkpoint.INDEX).write_text(json.dumps(index))


FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
Q = "encoder.block.0.layer.0.SelfAttention.q.weight"
ARRAY = "checkpoint_7/target.encoder.layers_1.mlp.expert.wi.kernel"

MISTAKES = [
    ("hf", lambda d: cut(d / SECOND), r"model-00002-of-00002.safetensors cannot be read: .*It is damaged, or was not fetched to its end"),
    ("hf", lambda d: (d / SECOND).unlink(), r"lacks 1 of the 2 files that model.safetensors.index.json names:\n  model-00002-of"),
    ("hf", lambda d: cut(d / hf_checkpoint.INDEX), r"index.json is not an index of safetensors files"),
    ("hf", lambda d: shutil.copy(d / FIRST, d / SECOND), r"does not hold .*, though model.safetensors.index.json says so"),
    ("hf", lambda d: without(Q, d), r"There is no tensor 'encoder/attention/q' of block 0, so this is not"),
    ("hf", lambda d: without(Q.replace("0", "1", 1), d), r"missing \(1\):\n  encoder.block.1.layer.0.SelfAttention.q.weight"),
    ("hf", lambda d: without("decoder.block.1.layer.2.mlp.experts.expert_3.wi.weight", d), r"missing \(1\):\n  decoder.block.1.layer.2.mlp.experts.expert_3.wi.weight"),
    ("hf", lambda d: add(d, "lora.weight", np.ones(3)), r"1 tensors that no T5 or Switch Transformer has, and nothing is left out in silence:\n  lora.weight \[3\]"),
    ("hf", lambda d: add(d, Q, np.ones((13, 16), np.float32)), r"SelfAttention.q.weight is \[16, 13\], not \[16, 12\]"),
    ("hf", lambda d: add(d, Q, np.ones((12, 16), np.int8)), r"tensors of type I8\. .* before it is quantised"),
    ("hf", lambda d: add(d, "decoder.embed_tokens.weight", np.ones((128, 16), np.float32)), r"decoder.embed_tokens.weight in .* differs from shared.weight"),
    ("hf", lambda d: add(d, "lm_head.weight", np.ones((128, 16), np.float32)), r"ties the logits to the embedding, but lm_head.weight is not the embedding"),
    ("hf", lambda d: edit(d / "config.json", d_ff=32, num_experts=8), r"contradicts itself. config.json says: d_ff is 32, the tensors: 24; num_experts is 8, the tensors: 4"),
    ("hf", lambda d: edit(d / "config.json", num_sparse_encoder_layers=2), r"num_sparse_encoder_layers is 2, which makes blocks \[0, 1\] of the encoder sparse, the tensors: \[1\]"),
    ("hf", lambda d: edit(d / "config.json", is_gated_act=True), r"feed-forward layers are gated \(wi_0, wi_1\), the tensors: not gated \(wi\)"),
    ("hf", lambda d: edit(d / "config.json", dense_act_fn="gelu"), r"names the activation 'gelu', which Mesh TensorFlow does not have"),
    ("hf", lambda d: edit(d / "config.json", model_type="mixtral"), r"a model of type 'mixtral'; those that can be converted are 't5', 'mt5' and 'switch_transformers'"),
    ("hf", lambda d: edit(d / "config.json", router_bias=True), r"router_bias = True, but Mesh TensorFlow's T5 has False"),
    ("hf", lambda d: cut(d / "config.json"), r"config.json cannot be read"),
    ("hf", lambda d: (d / "config.json").unlink(), r"holds no config.json, so it is not a model of transformers"),
    ("hf", lambda d: [(d / name).unlink() for name in (FIRST, SECOND, hf_checkpoint.INDEX)], r"holds neither model.safetensors nor"),
    ("t5x", lambda d: cut(d / "checkpoint_7" / "checkpoint"), r"is not the index of a T5X checkpoint"),
    ("t5x", lambda d: (d / "checkpoint_7" / "checkpoint").write_text('model_checkpoint_path: "x"'), r"is TensorFlow's list of checkpoints: convert it with --from=mtf"),
    ("t5x", lambda d: (d / "checkpoint_7" / "checkpoint").unlink(), r"holds no T5X checkpoint: no file 'checkpoint'"),
    ("t5x", lambda d: shutil.rmtree(d / ARRAY), r"layers_1.mlp.expert.wi.kernel cannot be opened: it is missing or damaged"),
    ("t5x", lambda d: (d / ARRAY / "2.0.0").unlink(), r"expert.wi.kernel lacks 1 of its 4 files, such as 2.0.0"),
    ("t5x", lambda d: cut(d / ARRAY / "2.0.0"), r"expert/wi/kernel cannot be read from"),
    ("mtf", lambda d: cut(d / "model.ckpt-7.index"), r"model.ckpt-7 cannot be read"),
    ("mtf", lambda d: cut(d / "model.ckpt-7.data-00000-of-00001"), r"model.ckpt-7 cannot be read: Read less bytes than requested"),
    ("mtf", lambda d: (d / "checkpoint").unlink(), r"holds no checkpoint yet"),
    ("mtf", lambda d: (d / "config.gin").write_text("DenseReluDense.activation = ['gelu', 'linear']"), r"activations gelu x linear, but the checkpoint has one input matrix in each"),
    ("mtf", lambda d: (d / "config.gin").write_text("a = = 3"), r"The gin file .*config.gin cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("format", "damage", "message"), MISTAKES)
def test_a_damaged_or_foreign_source_is_told_in_one_message_and_leaves_nothing(
    tiny, sources, format, damage, message, tmp_path
):
    source = tmp_path / "source"
    shutil.copytree(sources / format, source)
    damage(source)
    before = contents(source)
    to = "t5x" if format != "t5x" else "hf"
    outcome = tiny.command("convert", f"--from={format}", f"--to={to}", source, tmp_path / "to")
    assert outcome.code == 1
    with pytest.raises(UserError, match=f"(?s){message}"):
        raise UserError(outcome.err)
    assert "Traceback" not in outcome.err
    assert contents(source) == before
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_pickle_is_never_loaded(tiny, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "t5"}')
    (source / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch loaded'\ntR.")
    outcome = tiny.command("convert", "--from=hf", "--to=mtf", source, tmp_path / "to")
    assert outcome.code == 1
    assert (
        "pytorch_model.bin, which is a pickle: a program that runs as it is read" in outcome.err
    )
    assert "save_pretrained(" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--upcycle"], "--upcycle needs to know how many: add --experts=8, say."),
        (["--experts=4"], "--experts, --expert_every and --seed go with --upcycle."),
        (["--upcycle", "--experts=4"], "is for dense models, and this one has 4 experts"),
        (["--gin_param=d_ff = 3"], "--gin_file and --gin_param go with --to=mtf, not t5x."),
    ],
)
def test_flags_that_do_not_go_together_are_told(tiny, sources, arguments, message, tmp_path):
    flags = ["convert", "--from=hf", "--to=t5x", sources / "hf", tmp_path / "to"]
    outcome = tiny.command(*flags, *arguments)
    assert outcome.code == 1
    assert message in outcome.err
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_is_not_written_over(sources, kind, tmp_path):
    target = tmp_path / "to"
    {
        "folder": target.mkdir,
        "file": lambda: target.write_text("mine"),
        "link": lambda: target.symlink_to(tmp_path / "nowhere"),
    }[kind]()
    with pytest.raises(UserError, match="is there already, and nothing is written over"):
        convert_checkpoint(ConversionRequest("hf", "mtf", str(sources / "hf"), str(target)))
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gs://bucket/t5", "gs://bucket/t5 is not on this machine"),
        ("no/such", "no folder no/such"),
    ],
)
def test_a_source_that_is_not_there_is_told(source, message, tmp_path):
    with pytest.raises(UserError, match=message):
        convert_checkpoint(ConversionRequest("hf", "mtf", source, str(tmp_path / "to")))


def test_a_vocabulary_that_mesh_tensorflow_cannot_have_is_refused(tmp_path):
    odd = dataclasses.replace(random_models.T5, vocab_size=100)
    start = random_models.write("hf", tmp_path / "start", odd)
    with pytest.raises(
        UserError, match=r"has 100 rows, but .* a multiple of 128.*embeddings\(128\)"
    ):
        convert_checkpoint(ConversionRequest("hf", "mtf", str(start), str(tmp_path / "to")))
    # Between the others it does not matter.
    convert_checkpoint(ConversionRequest("hf", "t5x", str(start), str(tmp_path / "t5x")))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            random_models.GATED,
            "has no gated feed-forward layers .gelu x linear.*convert to t5x",
        ),
        (random_models.architecture("sd", "ds"), r"in the encoder .* be blocks \[0\] of 2"),
        (random_models.architecture("ds", "dd"), r"in the decoder .* be blocks \[\] of 2"),
    ],
)
def test_what_transformers_cannot_have_is_refused(model, message, tmp_path):
    start = random_models.write("t5x", tmp_path / "start", model)
    with pytest.raises(UserError, match=message):
        convert_checkpoint(ConversionRequest("t5x", "hf", str(start), str(tmp_path / "to")))
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


def test_a_full_disk_is_told_before_it_begins_and_when_it_happens(
    sources, tmp_path, monkeypatch
):
    asked = ConversionRequest("hf", "t5x", str(sources / "hf"), str(tmp_path / "new" / "to"))
    full = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(UserError, match=r"needs 0\.0 GiB, and .* has 0\.0 GiB left"):
            convert_checkpoint(asked)

    def write(self, piece, array):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand more")

    monkeypatch.setattr("mtf_switch.conversion.t5x_checkpoint.T5xTarget.write_tensor", write)
    with pytest.raises(
        UserError, match="to cannot be written: RESOURCE_EXHAUSTED: No space left"
    ):
        convert_checkpoint(asked)
    assert not list(tmp_path.rglob("*to*"))


# --- size


@pytest.mark.slow
def test_memory_is_that_of_a_few_tensors_whatever_the_checkpoints_size(tmp_path):
    """1.3 GiB of tensors, the largest of which has 144 MiB, within less memory than that."""
    (tmp_path / "hf").mkdir()
    size = big_checkpoint.make(str(tmp_path / "hf"), blocks=4, experts=16) / 2**20
    assert size > 1300
    script = str(Path(big_checkpoint.__file__))
    environment = {"PYTHONPATH": f"{gin_files.REPOSITORY}:{Path(script).parent}"}
    for source, target, limit in (
        ("hf", "mtf", 1700),
        ("mtf", "hf", 2300),
        ("hf", "t5x", 1700),
    ):
        folder = tmp_path / f"{source}_{target}"
        done = subprocess.run(
            [
                sys.executable,
                script,
                source,
                target,
                str(tmp_path / source),
                folder,
                str(limit),
            ],
            env={**environment, "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        memory = json.loads(done.stdout)
        assert memory["anonymous"] - memory["before"] < 0.75 * size
        if not (tmp_path / target).exists():
            folder.rename(tmp_path / target)
