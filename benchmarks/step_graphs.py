"""Builds a whole training step, optimizer included, to be timed."""

from __future__ import annotations

import tempfile
import types
from collections.abc import Callable, Mapping

import gin
import mesh_tensorflow as mtf
import numpy as np
import sizes
import tensorflow.compat.v1 as tf

from mtf_switch.config import bound_settings, gin_config
from mtf_switch.runs import estimator
from mtf_switch.runs.run import Run

_SWITCH = "transformer.make_layer_stack.layers"
# Upstream's layer, and its look-up of embeddings by a one-hot matmul.
_UPSTREAM = {
    "MoE1D.num_experts": "%num_experts",
    "MoE1D.hidden_size": "%d_ff",
    "MoE1D.moe_gating": "'switch'",
    "MoE1D.switch_jitter": "0.0",
    "MoE1D.group_size": "1024",
    "get_vocab_embedding_cls.cls": "@transformer.VocabEmbedding",
}


def configure_competitor(competitor: str, setting: sizes.Model) -> None:
    """Parses the gin configuration of a competitor.

    Args:
      competitor: "dense", "upstream", or a dispatch method of SwitchFFN.
      setting: The sizes.
    """
    params = {
        "MIXTURE_NAME": "'random'",
        "d_model": setting.d_model,
        "d_ff": setting.d_ff,
        "d_kv": 64,
        "num_heads": setting.heads,
        "dropout_rate": 0.0,
        "utils.run.batch_size": setting.batch_size,
        "utils.run.sequence_length": {"inputs": setting.inputs, "targets": setting.targets},
        "utils.run.learning_rate_schedule": 0.01,
        "utils.get_variable_dtype.activation_dtype": repr(setting.dtype),
    }
    files = ["models/t5_tiny.gin"]
    if competitor == "dense":
        params["num_layers"] = setting.blocks
    else:
        files.append("sparsity/every_other_switch.gin")
        params |= {
            "num_experts": setting.experts,
            "transformer.make_layer_stack.num_layers": setting.blocks // 2,
        }
    if competitor == "upstream":
        params |= _UPSTREAM | {"MoE1D.capacity_factor_train": setting.capacity_factor}
        for stack, attention in (
            ("encoder", ["Self"]),
            ("decoder", ["Self", "EncDec"]),
        ):
            layers = [f"@transformer_layers.{name}Attention" for name in attention]
            sparse = ", ".join(
                [*layers, "@transformer_layers.DenseReluDense", *layers, "@moe.MoE1D"]
            )
            params[f"{stack}/{_SWITCH}"] = f"[{sparse}]"
    elif competitor != "dense":
        params |= {
            "SwitchFFN.dispatch": repr(competitor),
            "Exploration.jitter": 0.0,
            "ExpertCapacity.group_size": setting.group_size,
            "ExpertCapacity.capacity_factor_train": setting.capacity_factor,
        }
    gin.clear_config()
    gin_config.parse(files, [f"{name} = {value}" for name, value in params.items()])


def start(
    vocabulary_size: int,
    mode: str,
    shapes: Mapping[str, tuple[int, int]],
    parent: str | None = None,
) -> tuple[tf.estimator.EstimatorSpec, dict[str, tf.Tensor], tf.Session, Callable[[], None]]:
    """Builds the graph of the configured model, and starts a session with initial weights.

    Args:
      vocabulary_size: The number of tokens.
      mode: One of tf.estimator.ModeKeys.
      shapes: Feature -> [B, L].
      parent: Folder in which the model_dir is made; None for that of temporary files.

    Returns:
      What the model function returned, the placeholders of the features, the session, and a
      function that releases its resources.
    """
    settings = bound_settings.read_settings()
    vocabulary = types.SimpleNamespace(vocab_size=vocabulary_size)
    folder = tempfile.TemporaryDirectory(dir=parent)
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(0)
        tf.train.get_or_create_global_step()
        runner = estimator.build(Run(settings, vocabulary, folder.name))
        features = {name: tf.placeholder(tf.int32, shape) for name, shape in shapes.items()}
        spec = runner._call_model_fn(dict(features), None, mode, runner.config)
        hooks = [*spec.training_hooks, *spec.training_chief_hooks, *spec.prediction_hooks]
        (restore,) = (hook for hook in hooks if isinstance(hook, mtf.MtfRestoreHook))
        restore.begin()
        session = tf.Session(graph=graph, config=runner.config.session_config)
        session.run(tf.global_variables_initializer())
        restore.after_create_session(session, None)

    def close():
        session.close()
        folder.cleanup()

    return spec, features, session, close


def build_step(
    competitor: str, setting: sizes.Model
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Builds a training step on random tokens: loss, gradients, Adafactor.

    Returns:
      A function that runs one step and takes keyword arguments for Session.run, and one that
      releases its resources.
    """
    configure_competitor(competitor, setting)
    shapes = {
        "inputs": (setting.batch_size, setting.inputs),
        "targets": (setting.batch_size, setting.targets),
    }
    spec, features, session, close = start(
        setting.vocabulary, tf.estimator.ModeKeys.TRAIN, shapes
    )
    rng = np.random.default_rng(0)

    def run(**trace):
        # 0 is padding, and 1 is the end of a sequence.
        tokens = {
            features[name]: rng.integers(2, setting.vocabulary, shape)
            for name, shape in shapes.items()
        }
        session.run(spec.train_op, tokens, **trace)

    return run, close
