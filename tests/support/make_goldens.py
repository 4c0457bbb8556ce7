"""Regenerates tests/goldens: run `make goldens` after a change of the cases or of what is kept.

A golden is a model saved by transformers together with the outputs of transformers for it. It
lets a machine without torch compare this implementation with another one.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import hf_models
import numpy as np

FOLDER = Path(__file__).parents[1] / "goldens"
NAMES = ("switch_tied_12_sharded", "switch_untied_4_gated", "t5_1_1")
KEPT = (
    "inputs",
    "targets",
    "encoder",
    "logits",
    "log_likelihoods",
    "decoded",
    "encoder_choice",
    "decoder_choice",
)


def main() -> None:
    """Writes a folder and an .npz for each of NAMES."""
    worker = hf_models.Worker(sys.argv[1])
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for case in hf_models.CASES:
        if case.name in NAMES:
            # bfloat16 halves the files; outputs are computed in float32 from rounded weights.
            case = dataclasses.replace(case, dtype="bfloat16", shard="60KB")
            outputs = worker.make(case, FOLDER / case.name)
            kept = {name: outputs[name] for name in KEPT if name in outputs}
            np.savez_compressed(FOLDER / f"{case.name}.npz", **kept)
    worker.close()
    (FOLDER / "versions.json").write_text(json.dumps(worker.versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
