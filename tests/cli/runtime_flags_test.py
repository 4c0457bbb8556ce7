"""The flags of --runtime: which combinations are refused, before TensorFlow is imported."""

from __future__ import annotations

import pytest

from mtf_switch.cli import main

SEVERAL = {
    "--coordinator_address": "10.0.0.2:1234",
    "--num_processes": "2",
    "--process_id": "1",
}


def run(capsys, *flags: str) -> str:
    """Runs `train`, which is refused, and returns the message."""
    assert (
        main.main(["train", "--model_dir=unused", "--gin_file=models/t5_base.gin", *flags]) == 1
    )
    return capsys.readouterr().err


def several(**changes: str | None) -> list[str]:
    flags = {**SEVERAL, **{f"--{name}": value for name, value in changes.items()}}
    return [f"{flag}={value}" for flag, value in flags.items() if value is not None]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (several(), "is for a run with --runtime=pjrt"),
        (["--runtime=pjrt", "--tpu=local"], "without --tpu"),
        (["--runtime=pjrt", *several(process_id=None)], "needs --process_id as well"),
        (["--runtime=pjrt", *several(process_id="2")], "have the numbers 0 to 1"),
        (
            ["--runtime=pjrt", *several(coordinator_address="host")],
            "not an address with a port",
        ),
        (["--runtime=pjrt", *several(coordinator_address="a:99999")], "not an address with a"),
        (["--runtime=pjrt", "--devices=3", *several()], "does not divide"),
    ],
)
def test_a_wrong_combination_is_refused(capsys, flags, message):
    assert message in run(capsys, *flags)


@pytest.mark.parametrize("flag", ["--process_id=-1", "--num_processes=0", "--runtime=jax"])
def test_a_wrong_value_is_refused(capsys, flag):
    with pytest.raises(SystemExit):
        main.main(["train", "--model_dir=unused", flag])
    assert flag.partition("=")[2] in capsys.readouterr().err
