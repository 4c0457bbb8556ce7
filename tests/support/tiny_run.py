"""A tiny Switch Transformer on a made-up corpus, driven through the command line.

Commands run in the process of the test, so TensorFlow is imported once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

INPUTS, TARGETS, BATCH = 32, 16, 8
EXPERTS = 4
# 300 pieces and T5's 100 sentinels.
VOCABULARY = 400
EOS_ID = 1
# Each stack has one block with one sparse feed-forward layer.
SWITCH_LAYERS = ("decoder/block_000/layer_002", "encoder/block_000/layer_001")

# It includes no model of gin/, which may change. All noise is on: dropout, expert dropout and
# input jitter. Building a graph takes most of a test's time, so the model has few layers.
MODEL = """
include 'models/bi_v1.gin'

d_model = 16
d_ff = 32
num_heads = 2
d_kv = 8
num_layers = 1
SwitchFFN.num_experts = %num_experts
encoder/transformer.make_layer_stack.layers = [
    @transformer_layers.SelfAttention,
    @SwitchFFN,
]
decoder/transformer.make_layer_stack.layers = [
    @transformer_layers.SelfAttention,
    @transformer_layers.EncDecAttention,
    @SwitchFFN,
]
"""
# In gin's syntax.
PARAMS = {
    "num_experts": str(EXPERTS),
    "dropout_rate": "0.1",
    "SwitchFFN.expert_dropout_rate": "0.4",
    "Exploration.jitter": "0.1",
    "ExpertCapacity.group_size": "64",
    "ExpertCapacity.capacity_factor_train": "1.25",
    "init_scale.s": "0.1",
    "text_files.vocab_size": str(VOCABULARY - 100),
    "utils.run.sequence_length": f"{{'inputs': {INPUTS}, 'targets': {TARGETS}}}",
    "utils.run.batch_size": str(BATCH),
    "utils.run.save_checkpoints_steps": "3",
    "mesh_train_dataset_fn.pack": "False",
}

# Parameters for a model with even fewer layers: the graph of each device has every layer.
_LAYERS = "transformer.make_layer_stack.layers"
FEW_LAYERS = {
    f"encoder/{_LAYERS}": "[@SwitchFFN]",
    f"decoder/{_LAYERS}": "[@transformer_layers.EncDecAttention, @SwitchFFN]",
}
FEW_SWITCH_LAYERS = ("decoder/block_000/layer_001", "encoder/block_000/layer_000")

_SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "pa", "ri", "so", "tu", "ve", "za")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True)
class TinyRun:
    """Runs commands with their own cache and corpus, both in `folder`."""

    folder: Path

    @property
    def corpus(self) -> Path:
        """A file of made-up text, a little longer than the shortest corpus that is accepted."""
        path = self.folder / "corpus.txt"
        if not path.exists():
            path.write_text(made_up_text(characters=120_000), encoding="utf-8")
        return path

    @property
    def gin_file(self) -> Path:
        """A gin file of the model."""
        path = self.folder / "tiny.gin"
        if not path.exists():
            path.write_text(MODEL, encoding="utf-8")
        return path

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the commands."""
        return {"MTF_SWITCH_CACHE": str(self.folder / "cache")}

    def command(self, *arguments: Any) -> Outcome:
        """Runs `run_switch.py` with these arguments in this process."""
        from mtf_switch.cli import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, self.environment))
            stack.enter_context(mock.patch("sys.argv", ["run_switch.py"]))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            stack.enter_context(faster())
            try:
                code = main.main([str(argument) for argument in arguments])
            except SystemExit as exit_:  # argparse
                code = exit_.code
        return Outcome(code, out.getvalue(), err.getvalue())

    def train_arguments(
        self, model_dir: Path, *arguments: str, params: Mapping[str, str] = {}
    ) -> list[str]:
        """The arguments of a training run; `params` override PARAMS."""
        return [
            "train",
            f"--gin_file={self.gin_file}",
            f"--corpus={self.corpus}",
            f"--model_dir={model_dir}",
            *(f"--gin_param={name} = {value}" for name, value in {**PARAMS, **params}.items()),
            *arguments,
        ]

    def train(
        self, model_dir: Path, *arguments: str, params: Mapping[str, str] = {}
    ) -> Outcome:
        """Runs `train`."""
        return self.command(*self.train_arguments(model_dir, *arguments, params=params))

    def parse(self, params: Mapping[str, str] = {}, task: str = "text_files") -> Any:
        """Parses the configuration that `train` would, for tests of the functions that it calls.

        Returns:
          (settings, vocabulary).
        """
        from mtf_switch.config import gin_config

        bindings = {"text_files.files": repr(str(self.corpus)), **PARAMS, **params}
        gin_config.parse(
            [str(self.gin_file)],
            [f"{name} = {value}" for name, value in bindings.items()]
            + [f"MIXTURE_NAME = {task!r}", "utils.run.train_steps = 6"],
        )
        return self.prepared()

    def load(self, model_dir: Path, params: Sequence[str] = ()) -> Any:
        """Parses the configuration of a model_dir; returns (settings, vocabulary)."""
        from mtf_switch.config import saved_config

        saved_config.load(str(model_dir), gin_params=params)
        return self.prepared()

    def prepared(self) -> Any:
        """(settings, vocabulary) of the parsed configuration."""
        from mtf_switch.config import bound_settings
        from mtf_switch.runs import registered_tasks

        settings = bound_settings.read_settings()
        with mock.patch.dict(os.environ, self.environment):
            return settings, registered_tasks.prepare_task(settings.task)


@contextlib.contextmanager
def faster():
    """Omits the graph optimizer, which takes a large part of the time of a tiny run.

    One test of the command line runs with it.
    """
    # This import loads TensorFlow, so it is not at the top.
    from mtf_switch.runs import estimator

    original = estimator.session_config

    def session_config(*arguments):
        config = original(*arguments)
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        return config

    with mock.patch.object(estimator, "session_config", session_config):
        yield


def copy_of(model_dir: Path, to: Path) -> Path:
    """Copies a model_dir, without its TensorBoard events, for a test that changes it."""
    return Path(shutil.copytree(model_dir, to, ignore=shutil.ignore_patterns("*tfevents*")))


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the content of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def variables(model_dir: Path, step: int) -> dict[str, np.ndarray]:
    """Returns the variables in a checkpoint, with optimizer slots and the global step."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(model_dir / f"model.ckpt-{step}"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def validation_examples(settings: Any) -> dict[str, np.ndarray]:
    """Returns the ids of the validation split, read with seqio: feature -> [examples, length]."""
    import seqio

    task = seqio.get_mixture_or_task(settings.task)
    dataset = task.get_dataset(settings.sequence_length, "validation", shuffle=False, seed=0)
    examples = list(dataset.as_numpy_iterator())
    arrays = {}
    for feature, length in settings.sequence_length.items():
        arrays[feature] = np.zeros([len(examples), length], np.int32)
        for row, example in zip(arrays[feature], examples):
            row[: len(example[feature])] = example[feature]
    return arrays


@dataclasses.dataclass(frozen=True)
class Ran:
    """The results of the model for a batch.

    Attributes:
      logits: [B, L, V] float32.
      loss: The training loss: cross-entropy and auxiliary losses.
      router_sums: layer -> [6 + 2 E], see `mtf_switch.layers.router_metrics`.
    """

    logits: np.ndarray
    loss: float
    router_sums: dict[str, np.ndarray]


def run_model(
    checkpoint: str | None,
    settings: Any,
    vocabulary: Any,
    batches: Sequence[Mapping[str, np.ndarray]],
    mode: str = "eval",
) -> list[Ran]:
    """Calls the model on batches, without estimator and input pipeline.

    Args:
      checkpoint: Path of a checkpoint; None for the initial values of seed 0.
      settings, vocabulary: The settings and the vocabulary of the parsed configuration.
      batches: Batches of one shape, [B, length] int32 each: "inputs" (not for a language
        model), "targets", and further arguments of the model's call_simple by name.
      mode: "train" or "eval".
    """
    import mesh_tensorflow as mtf
    import tensorflow.compat.v1 as tf
    from mesh_tensorflow.transformer import transformer, utils

    from mtf_switch.layers import recorded_sums
    from mtf_switch.model import switch_transformer
    from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl

    with tf.Graph().as_default():
        tf.set_random_seed(0)
        tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        fed = {name: tf.placeholder(tf.int32, ids.shape) for name, ids in batches[0].items()}
        features = {}
        for name, ids in fed.items():
            dims = zip(("batch", "length"), ids.shape.as_list())
            shape = mtf.Shape([mtf.Dimension(*dim) for dim in dims])
            features[name] = mtf.import_tf_tensor(mesh, ids, shape)
        if "inputs" not in features:
            features["inputs"] = transformer.autoregressive_inputs(features["targets"])
        logits, loss = switch_transformer.build(settings, vocabulary).call_simple(
            compute_loss=True, mode=mode, variable_dtype=utils.get_variable_dtype(), **features
        )
        mesh_impl = SeededPlacementMeshImpl([], [], [""])
        lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl}, autostack=False)
        fetches = {
            "logits": tf.cast(lowering.export_to_tf_tensor(logits), tf.float32),
            "loss": tf.cast(lowering.export_to_tf_tensor(loss), tf.float32),
            "router_sums": {
                name: lowering.export_to_tf_tensor(sums)
                for name, sums in recorded_sums.take(mesh.graph).items()
            },
        }
        with tf.Session() as session:
            if checkpoint is None:
                session.run(tf.global_variables_initializer())
            else:
                tf.train.Saver(tf.global_variables()).restore(session, checkpoint)
            session.run(lowering.copy_masters_to_slices())
            return [
                Ran(**session.run(fetches, {fed[name]: batch[name] for name in fed}))
                for batch in batches
            ]


def log_likelihoods(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the log-likelihood of each target token, in nats, and 0 for padding.

    Args:
      logits: [B, L, V] float32.
      targets: [B, L] int32.

    Returns:
      [B, L] float64.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(log_probs, targets[..., np.newaxis], axis=-1)[..., 0]
    return chosen * (targets != 0)


def filled_up(array: np.ndarray, rows: int = BATCH) -> np.ndarray:
    """Adds rows of padding to make a full batch."""
    return np.pad(array, [(0, rows - len(array)), (0, 0)])


def made_up_text(characters: int, seed: int = 0) -> str:
    """Returns paragraphs of 8 made-up sentences each, with at least `characters` characters."""
    chooser = random.Random(seed)
    words = ["".join(chooser.choices(_SYLLABLES, k=1 + i % 4)) for i in range(1500)]
    paragraphs: list[str] = []
    while sum(map(len, paragraphs)) < characters:
        sentences = [" ".join(chooser.choices(words, k=11)) + "." for _ in range(8)]
        paragraphs.append("\n".join(sentences))
    return "\n\n".join(paragraphs)
