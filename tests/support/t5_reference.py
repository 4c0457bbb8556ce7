"""A checkpoint that T5's own program and gin files make, at a tiny size."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEPS = 2
# A user of T5 names a model and a data set by gin files, and sizes by bindings.
GIN_FILES = ("dataset.gin", "learning_rate_schedules/constant_0_001.gin")
SIZES = {
    "d_model": 16,
    "d_ff": 32,
    "num_heads": 2,
    "d_kv": 8,
    "num_layers": 2,
}

_PROGRAM = """
    import os, sys
    import mtf_switch  # the repairs, without which T5 does not start on this TensorFlow
    import seqio, t5.data
    import tensorflow as tf
    from absl import app
    from t5.models import mesh_transformer_main

    vocabulary = seqio.SentencePieceVocabulary(os.environ["VOCABULARY"], extra_ids=100)
    feature = seqio.Feature(vocabulary, add_eos=True)
    examples = lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors(
        {"inputs": "the cat sat", "targets": "on the mat"}).repeat(64)
    seqio.TaskRegistry.add(
        "cat", source=seqio.FunctionDataSource(examples, splits=["train", "validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={"inputs": feature, "targets": feature})
    sys.exit(app.run(mesh_transformer_main.main))
"""


def train(model_dir: Path, vocabulary: Path, model: str = "models/t5.1.0.small.gin") -> None:
    """Runs T5's program for two steps of training.

    Args:
      model_dir: The folder for its checkpoints and operative_config.gin.
      vocabulary: A SentencePiece model.
      model: One of T5's gin files.
    """
    params = {
        **SIZES,
        "MIXTURE_NAME": "'cat'",
        "utils.run.train_steps": STEPS,
        "utils.run.batch_size": 4,
        "utils.run.sequence_length": "{'inputs': 16, 'targets': 16}",
        "utils.run.mesh_shape": "''",
        "utils.run.layout_rules": "''",
        "utils.run.autostack": False,
        "utils.get_variable_dtype.activation_dtype": "'float32'",
        "utils.run.save_checkpoints_steps": STEPS,
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(_PROGRAM),
            f"--model_dir={model_dir}",
            *(f"--gin_file={file}" for file in (GIN_FILES[0], model, GIN_FILES[1])),
            *(f"--gin_param={name} = {value}" for name, value in params.items()),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "VOCABULARY": str(vocabulary)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
