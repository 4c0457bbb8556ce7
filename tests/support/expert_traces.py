"""The results of the command `experts` for two checkpoints of a tiny run."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from tiny_run import TinyRun

from mtf_switch.analysis import routing_trace

# The stacks read whole batches until they have read so many tokens.
TOKENS = 1800


def arguments(model_dir: Path, folder: Path) -> list[str]:
    """Returns the flags of `experts` for steps 3 and 6."""
    return [
        f"--model_dir={model_dir}",
        "--split=train",
        "--checkpoint_steps=3,6",
        f"--tokens={TOKENS}",
        f"--output_dir={folder}",
    ]


def make(tiny: TinyRun, trained: Path, folder: Path) -> Path:
    """Fills and returns a folder of results, whose trace has files of 100 tokens."""
    with mock.patch.object(routing_trace, "TOKENS_PER_FILE", 100):
        outcome = tiny.command(
            "experts", *arguments(trained, folder), "--importance_tokens=700"
        )
    assert outcome.code == 0, outcome.err
    for line in (
        "tokens              ",
        "enc 0.1      input vocabulary",
        str(folder / "trace"),
    ):
        assert line in outcome.out
    return folder
