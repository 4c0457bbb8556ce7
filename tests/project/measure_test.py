"""What all benchmarks share: the rate of matrix products, FLOPs of a step, and the origin."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import measure
import pytest
import sizes
import timing

from mtf_switch import machine
from mtf_switch.errors import UserError


def test_the_rate_is_the_flops_of_a_product_over_its_median_time(monkeypatch):
    closed, started = [], []

    def time_worker(command, setting, environment, name):
        started.append((command[0], command[2], setting, environment))
        times = iter([9.0] * 3 + [0.5] * 8 + [4.0] * 7)
        return timing.Competitor(lambda: next(times), lambda: closed.append(name))

    monkeypatch.setattr(timing, "time_worker", time_worker)
    # 2048^3 multiplications and as many additions in half a second.
    rate = 2 * 2048**3 / 0.5
    assert measure.measure_gemm_rates() == {"tensorflow": rate}
    assert measure.measure_gemm_rates("a/python") == {"tensorflow": rate, "torch": rate}
    size = {"size": 2048}
    ours = (sys.executable, "tensorflow", size, None)
    assert started == [ours, ours, ("a/python", "torch", size, None)]
    assert len(closed) == 3


@pytest.mark.slow
def test_the_rate_of_this_machine_is_measured(monkeypatch):
    monkeypatch.setattr(measure, "_GEMM_SIZE", 64)
    assert measure.measure_gemm_rates()["tensorflow"] > 1e6


def test_the_origin_names_the_rates_and_no_absolute_path(monkeypatch):
    flags = ["--hf_python=/home/me/torch/bin/python", "--other", "/work/mine", "--steps=3"]
    monkeypatch.setattr(sys, "argv", ["benchmarks/x.py", *flags])
    origin = measure.collect_provenance({})
    assert origin["command"] == (
        "python benchmarks/x.py --hf_python=path/to/python --other path/to/mine --steps=3"
    )
    # Results of before the rates were measured have none.
    assert "GFLOP/s" not in measure.format_origin(origin)
    line = measure.format_origin({**origin, measure.GEMM_RATES: {"tensorflow": 3.126e11}})
    assert "; float32 products of 2048 x 2048 matrices: 313 GFLOP/s with tensorflow; " in line


# 3 sequences of 4 + 2 tokens; the heads have 2 x 64 dimensions.
SMALL = {"batch_size": 3, "inputs": 4, "targets": 2, "d_model": 8, "d_ff": 16}
SMALL |= {"blocks": 2, "heads": 2, "vocabulary": 32}


def list_products(experts: int) -> list[tuple[int, int, int]]:
    """Rows, inner dimension and columns of each product of SMALL forward, one by one."""
    encoder, decoder, rows = 12, 6, []
    for _ in range(2):
        # Queries, keys, values and outputs of the three attentions.
        rows += [(encoder, 8, 128)] * 3 + [(encoder, 128, 8)]
        rows += [(decoder, 8, 128)] * 3 + [(decoder, 128, 8)]
        rows += [(decoder, 8, 128)] + [(encoder, 8, 128)] * 2 + [(decoder, 128, 8)]
        # Logits, and the sums of the values, for 3 sequences and 2 heads.
        for length, memory in ((4, 4), (2, 2), (2, 4)):
            rows += [(length, 64, memory), (length, memory, 64)] * 6
        for tokens in (encoder, decoder):
            rows += [(tokens, 8, 16), (tokens, 16, 8)]
    # One of the two blocks is sparse, in the encoder and in the decoder.
    rows += [(tokens, 8, experts) for tokens in (encoder, decoder) if experts > 1]
    return [*rows, (decoder, 8, 32)]


@pytest.mark.parametrize("experts", [1, 4])
def test_the_flops_of_a_step_are_those_of_its_products(experts):
    forward = sum(2 * rows * inner * columns for rows, inner, columns in list_products(experts))
    assert sizes.Model(experts, **SMALL).flops == 3 * forward


def test_quartiles_are_never_outside_the_values():
    assert measure.find_quartiles([3.0, 1.0]) == [1.5, 2.0, 2.5]
    assert measure.find_quartiles([1.0, 2.0, 5.0, 3.0, 4.0]) == [2.0, 3.0, 4.0]


def test_the_code_of_another_checkout_is_not_measured(monkeypatch, tmp_path):
    measure.check_checkout()
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "mtf_switch/machine.py"))
    here = Path(measure.__file__).resolve().parents[1]
    with pytest.raises(UserError, match=f"from {tmp_path}, .* Set PYTHONPATH={here}"):
        measure.check_checkout()


def test_only_results_are_printed_as_results(monkeypatch, capsys):
    """TFDS prints that it prepares a data set, which is no line of JSON."""

    def measure_one(options):
        del options
        print("Downloading ...")
        yield {"seconds": 1.0}

    monkeypatch.setattr(measure, "check_checkout", lambda: None)
    monkeypatch.setattr(measure, "measure_gemm_rates", lambda hf_python: {"tensorflow": 2e9})
    options = argparse.Namespace(json=True)
    assert measure.run_benchmark("one", options, measure_one, str) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"seconds": 1.0, measure.GEMM_RATES: {"tensorflow": 2e9}}
    assert err == "Downloading ...\n"
