"""Makes tests/goldens anew: `make goldens`, after a change of what is in them.

Each is a model as transformers saved it, and what transformers gave for it: the parity with
another implementation, for machines without torch.
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
            # bfloat16 halves the files; the outputs are float32's on the rounded weights.
            case = dataclasses.replace(case, dtype="bfloat16", shard="60KB")
            outputs = worker.make(case, FOLDER / case.name)
            kept = {name: outputs[name] for name in KEPT if name in outputs}
            np.savez_compressed(FOLDER / f"{case.name}.npz", **kept)
    worker.close()
    (FOLDER / "versions.json").write_text(json.dumps(worker.versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
