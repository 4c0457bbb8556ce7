"""Training of a gin file's model for two steps on made-up text."""

from __future__ import annotations

import math

import numpy as np
from tiny_run import variables

from mtf_switch.model_dirs import train_log

SMALL = (
    "utils.run.batch_size = 8",
    "utils.run.sequence_length = {'inputs': 32, 'targets': 16}",
    "mesh_train_dataset_fn.pack = False",
    "text_files.vocab_size = 300",
)


def train_two_steps(tiny, model_dir, *gin_files, params=()):
    """Trains for two steps on made-up text, and checks that everything learns."""
    done = tiny.command(
        "train",
        *(f"--gin_file={file}" for file in gin_files),
        *(f"--gin_param={param}" for param in (*SMALL, *params)),
        f"--corpus={tiny.corpus}",
        f"--model_dir={model_dir}",
        "--steps=2",
    )
    assert done.code == 0, done.err
    steps = train_log.read(str(model_dir))
    assert [step.step for step in steps] == [1, 2]
    assert all(math.isfinite(step.loss) and step.loss > 1 for step in steps)
    before, after = variables(model_dir, 0), variables(model_dir, 2)
    weights = [name for name in before if "_slot_" not in name and name != "global_step"]
    assert len(weights) > 20
    assert not [name for name in weights if np.array_equal(before[name], after[name])]
    return steps
