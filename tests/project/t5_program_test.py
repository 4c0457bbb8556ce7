"""T5's own program trains SwitchFFN with the files of docs/package.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "package.md").read_text(encoding="utf-8")

TASKS = """
import functools, seqio, tensorflow as tf

def read(split, shuffle_files=False, seed=None):
    text = tf.data.Dataset.from_tensor_slices(["a b c", "d e f"] * 50)
    return text.map(lambda line: {"inputs": line, "targets": line})

seqio.TaskRegistry.add(
    "my_task",
    source=seqio.FunctionDataSource(read, splits=("train", "validation")),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={
        name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")
    },
)
"""
SMALL = {
    **{name: size for name, size in (("d_model", 16), ("d_ff", 32), ("num_heads", 2))},
    **{"d_kv": 8, "num_layers": 1, "utils.run.batch_size": 8, "utils.run.train_steps": 2},
    "utils.run.sequence_length": {"inputs": 16, "targets": 16},
}


@pytest.mark.slow
def test_t5s_own_program_trains_the_layer(tmp_path: Path) -> None:
    section = PAGE.split("## The Switch layer in T5's own program")[1]
    gin_text, program, command = re.findall(r"^```\w*\n(.*?)^```", section, re.M | re.S)
    (tmp_path / "switch.gin").write_text(gin_text)
    (tmp_path / "t5_with_switch.py").write_text(program)
    (tmp_path / "my_tasks.py").write_text(TASKS)
    small = " ".join(f'--gin_param="{name} = {value}"' for name, value in SMALL.items())
    line = command.strip().replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(
        ["bash", "-c", f"{line} {small}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Loss for final step" in done.stderr
    config = (tmp_path / "model" / "operative_config.gin").read_text()
    assert "encoder/SwitchFFN.num_experts = 8" in config
    assert (tmp_path / "model" / "model.ckpt-2.index").is_file()
