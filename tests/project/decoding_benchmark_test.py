"""The benchmark of decoding. No test depends on the measured times."""

from __future__ import annotations

import json

import decode
import pytest
import timing

from mtf_switch.config import gin_files

pytestmark = pytest.mark.usefixtures("gemm_rates")

BENCHMARKS = gin_files.GIN_FOLDER.parent / "benchmarks"


def test_the_decoding_benchmark_has_a_row_for_each_batch_size(capsys, monkeypatch):
    """The workers here do nothing. The test below runs real ones."""
    nothing = timing.time_in_this_process(lambda: None, lambda: None)
    monkeypatch.setattr(decode, "_start", lambda *_: nothing)
    flags = ["--competitors", "this", "other", "--other=elsewhere", "--batches", "2", "3"]
    assert decode.main([*flags, "--beam_batches", "5", "--repetitions=2"]) == 0
    rows = [
        line.split("|")[1:4] for line in capsys.readouterr().out.splitlines() if "|" in line
    ]
    rows = [tuple(cell.strip() for cell in row) for row in rows[2:]]
    assert rows == [
        (batch, beams, name)
        for batch, beams in (("2", "1"), ("3", "1"), ("5", "4"))
        for name in ("this", "other")
    ]
    with pytest.raises(SystemExit):
        decode.main(["--competitors", "other"])
    assert "needs --other" in capsys.readouterr().err


@pytest.mark.slow
def test_the_decoding_benchmark_runs_two_checkouts(capsys):
    sizes = ["--inputs=8", "--targets=4", "--d_model=8", "--d_ff=16", "--blocks=2"]
    # With few tokens, beams often end with the end of a sequence, which the worker refuses.
    sizes += ["--vocabulary=8192", "--group_size=8", "--repetitions=2"]
    flags = ["--competitors", "this", "other", f"--other={BENCHMARKS.parent}", "--json"]
    batches = ["--batches", "2", "--beam_batches", "2", "--experts=2"]
    assert decode.main([*sizes, *flags, *batches]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["competitor"], r["beams"]) for r in found] == [
        (name, beams) for beams in (1, 4) for name in ("this", "other")
    ]
    for result in found:
        # 2 sequences of 4 tokens.
        assert result["tokens_per_second"] == pytest.approx(8 / result["seconds"])
