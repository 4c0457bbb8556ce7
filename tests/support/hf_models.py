"""Small random models of transformers, created and run by `transformers_worker`."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# No matrix is square: heads x d_kv = 12, d_model = 16 and d_ff = 24 all differ.
SIZES = {
    "vocab_size": 128,
    "d_model": 16,
    "d_kv": 4,
    "num_heads": 3,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "dropout_rate": 0.1,
}
# An expert capacity with which no token of these short sequences is dropped.
AMPLE_CAPACITY = 64


def switch_config(
    experts: int, step: int = 2, blocks=(2, 2), tied=True, **others
) -> dict[str, Any]:
    """Returns the config of a Switch Transformer in which every `step`-th block is sparse."""
    encoder, decoder = blocks
    return {
        **SIZES,
        "num_layers": encoder,
        "num_decoder_layers": decoder,
        "num_sparse_encoder_layers": encoder // step,
        "num_sparse_decoder_layers": decoder // step,
        "num_experts": experts,
        "tie_word_embeddings": tied,
        "expert_capacity": AMPLE_CAPACITY,
        **others,
    }


@dataclasses.dataclass(frozen=True)
class Case:
    """A model to create.

    Attributes:
      name: Name of the case.
      kind: "t5" or "switch".
      config: Values of its config.json.
      seed: Seed of its random weights.
      gated: Whether the experts of a Switch Transformer are gated.
      shard: Maximum size of a file.
      dtype: Dtype in which it is saved.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    seed: int = 0
    gated: bool = False
    shard: str = "5GB"
    dtype: str = "float32"


CASES = (
    Case("switch_tied_2", "switch", switch_config(2)),
    Case("switch_untied_4_all_sparse", "switch", switch_config(4, step=1, tied=False), 1),
    Case("switch_tied_12_sharded", "switch", switch_config(12, blocks=(4, 2)), 2, shard="20KB"),
    Case("switch_untied_4_gated", "switch", switch_config(4, tied=False), 3, gated=True),
    Case("switch_tied_4_bfloat16", "switch", switch_config(4), 4, dtype="bfloat16"),
    Case("t5_1_0", "t5", {**SIZES, "feed_forward_proj": "relu"}, 5),
    Case(
        "t5_1_1",
        "t5",
        {**SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
         "num_decoder_layers": 3},
        6,
    ),
)  # fmt: skip


def make_ids(seed: int = 0) -> dict[str, np.ndarray]:
    """Returns {"inputs": [3, 10], "targets": [3, 6]}: random ids, padded to equal lengths."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, length, lengths in (("inputs", 10, (10, 7, 4)), ("targets", 6, (6, 3, 5))):
        made[name] = rng.integers(2, SIZES["vocab_size"], (3, length))
        for row, used in zip(made[name], lengths):
            row[used - 1] = 1
            row[used:] = 0
    return made


class Worker:
    """Another process, in which torch and transformers are installed."""

    def __init__(self, python: str):
        """Starts the process with the interpreter at the path `python`."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("transformers_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.versions = self._read_answer()

    def _read_answer(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError("transformers_worker ended")

    def _run_task(self, **task: Any) -> Any:
        given = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in task.items()}
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        self._read_answer()
        with np.load(task["outputs"]) as arrays:
            return dict(arrays)

    def make(self, case: Case, folder: Path, **given: np.ndarray) -> dict[str, np.ndarray]:
        """Creates and saves the model of a case; returns its outputs for ids.

        Args:
          case: The model to create.
          folder: The folder to save it in.
          given: Arrays that replace those of `make_ids`.
        """
        outputs = f"{folder}.npz"
        task = {**dataclasses.asdict(case), **make_ids(), **given}
        return self._run_task(do="make", folder=str(folder), outputs=outputs, **task)

    def run(self, kind: str, folder: Path, **given: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs of a saved model for ids."""
        outputs = f"{folder}.npz"
        return self._run_task(do="run", kind=kind, folder=str(folder), outputs=outputs, **given)

    def close(self) -> None:
        """Stops the process."""
        self._process.stdin.close()
        self._process.wait()
