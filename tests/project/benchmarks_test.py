"""The benchmarks run and report their results. No test depends on the measured times."""

from __future__ import annotations

import itertools
import json
import sys

import live_tensors
import measure
import page_table
import pytest
import sizes
import startup
import timing
import tiny_run

from mtf_switch.config import gin_files

pytestmark = pytest.mark.usefixtures("gemm_rates")

BENCHMARKS = gin_files.GIN_FOLDER.parent / "benchmarks"
TINY_LAYER = ["--tokens=64", "--group_sizes=32", "--d_model=8", "--d_ff=16", "--experts=4"]
TINY_LAYER += ["--dtypes=float32", "--capacity_factors=1.25", "--repetitions=2"]
TINY_STEP = ["--batch_size=2", "--inputs=8", "--targets=4", "--d_model=8", "--d_ff=16"]
TINY_STEP += ["--blocks=2", "--vocabulary=128", "--group_size=8", "--repetitions=2"]


@pytest.fixture
def benchmark_modules(monkeypatch):
    import switch_layer
    import train_step

    monkeypatch.setattr(sys, "argv", ["benchmarks/switch_layer.py"])
    return switch_layer, train_step


def test_the_layers_benchmark_prints_an_object_for_each_competitor(
    benchmark_modules, gemm_rates, capsys
):
    switch_layer, _ = benchmark_modules
    competitors = ["dense", "gather", "einsum", "upstream"]
    assert switch_layer.main([*TINY_LAYER, "--json", "--competitors", *competitors]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["competitor"] for result in found] == competitors
    assert found[0]["ratio_to_dense"] == 1.0
    for result in found:
        low, high = result["seconds_quartiles"]
        assert 0 < low <= result["seconds"] <= high
        assert result[measure.GEMM_RATES] == gemm_rates
        assert (result["experts"], result["capacity_factor"]) == (4, 1.25)
        assert (result["tokens"], result["group_size"], result["dtype"]) == (64, 32, "float32")
        assert result["versions"]["tensorflow"].startswith("2.15")
        assert {"command", "commit", "machine", "ratio_quartiles"} <= result.keys()


@pytest.mark.slow
def test_the_steps_benchmark_runs_each_competitor(benchmark_modules, capsys):
    _, train_step = benchmark_modules
    competitors = ["dense", "gather", "upstream"]
    with tiny_run.faster():
        code = train_step.main(
            [*TINY_STEP, "--json", "--experts=2", "--competitors", *competitors]
        )
    assert code == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(result["competitor"], result["experts"]) for result in found] == [
        ("dense", 1),
        ("gather", 2),
        ("upstream", 2),
    ]
    for result in found:
        # 2 sequences of 8 + 4 tokens.
        assert result["tokens_per_second"] == pytest.approx(24 / result["seconds"])


def test_the_steps_benchmark_has_a_row_for_each_number_of_experts(
    benchmark_modules, capsys, monkeypatch
):
    """The steps here do nothing. The test above runs real ones."""
    _, train_step = benchmark_modules
    import step_graphs

    monkeypatch.setattr(step_graphs, "build_step", lambda *_: (lambda: None, lambda: None))
    monkeypatch.setattr(timing.time, "perf_counter", itertools.count().__next__)
    monkeypatch.setattr(sizes.Model, "flops", 10**9)
    flags = ["--experts", "2", "4", "--competitors", "dense", "gather", "upstream"]
    assert train_step.main([*TINY_STEP, *flags]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "|" in line]
    rows = [tuple(row[i].strip() for i in (1, 2, 7)) for row in rows[2:]]
    # A step takes 1 s here: 10^9 FLOP/s are half of TensorFlow's rate.
    assert rows == [("dense", "1", "0.50"), *(
        (name, experts, "0.50") for name in ("gather", "upstream") for experts in ("2", "4")
    )]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--group_sizes=24"], "group_size = 24 does not divide the 64 tokens"),
        (["--competitors", "hf", "--hf_python=no/such/python"], "cannot be run: No such file"),
        (["--competitors", "hf", f"--hf_python={sys.executable}"], "It needs torch and"),
    ],
)
def test_mistakes_are_reported_in_one_line(benchmark_modules, capsys, flags, message):
    switch_layer, _ = benchmark_modules
    assert switch_layer.main([*TINY_LAYER, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--competitors", "scatter"], "invalid choice: 'scatter'"),
        (["--competitors", "hf"], "need --hf_python"),
        (["--repetitions=1"], "at least 2"),
    ],
)
def test_options_that_cannot_be_are_refused(benchmark_modules, capsys, flags, message):
    switch_layer, _ = benchmark_modules
    with pytest.raises(SystemExit):
        switch_layer.main([*TINY_LAYER, *flags])
    assert message in capsys.readouterr().err


def test_the_runtimes_benchmark_prints_a_table_and_all_runs(
    benchmark_modules, monkeypatch, capsys
):
    del benchmark_modules
    import pjrt

    speeds = iter([100.0, 200.0, 200.0, 600.0, 300.0, 300.0])

    def measure_run(model, devices, runtime, steps, tokens):
        assert (model, devices, steps, tokens) == ("t5_tiny", 8, 4, 2560)
        return {pjrt.SPEED: next(speeds), pjrt.START_UP: 2.0}

    monkeypatch.setattr(pjrt, "measure_run", measure_run)
    monkeypatch.setattr(pjrt, "measure_reading", lambda model: (0.004, 2560))
    flags = ["--models=t5_tiny", "--devices=8", "--steps=4", "--rounds=3"]
    assert pjrt.main(flags) == 0
    out = capsys.readouterr().out
    # The runtimes take turns: speeds of 100, 200, 300 and 200, 600, 300.
    (row,) = (line for line in out.splitlines() if "| pjrt " in line)
    assert "300 (250 to 450)" in row
    assert "2.00 (1.50 to 2.50)" in row
    assert "Each row has 3 runs of 4 steps" in out
    speeds = iter([100.0, 200.0] * 3)
    assert pjrt.main([*flags, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["runtime"] for line in lines] == list(pjrt.RUNTIMES)
    assert [line[pjrt.SPEED] for line in lines] == [[100.0] * 3, [200.0] * 3]
    assert lines[0]["versions"]["jax"]


def test_a_page_without_a_place_for_a_table_is_not_changed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- table: a.py -->\nno end\n")
    with pytest.raises(ValueError, match=r"has no line <!-- table: a\.py -->"):
        page_table.replace(page, "a.py", "new")
    assert page.read_text() == "<!-- table: a.py -->\nno end\n"


@pytest.mark.slow
def test_the_pipelines_benchmark_compares_them_with_one_batch(benchmark_modules, capsys):
    """It reads the embedded text."""
    import pipeline

    assert pipeline.main(["--json", "--repetitions=2", "--batches=1"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["competitor"] for result in found] == list(pipeline.PIPELINES)
    assert found[0]["ratio_to_one_batch"] == 1.0
    for result in found:
        assert min(result["seconds"], result["read_cpu_seconds"]) > 0


def test_the_peak_is_the_largest_sum_over_time(benchmark_modules):
    del benchmark_modules
    import memory

    # 5 + 3 bytes from 2 on, then 5 - 5 + 3 + 4: at one moment, what is freed counts first.
    assert memory.find_peak([(1, 5), (2, 3), (4, 4), (3, -5)]) == 8
    assert memory.find_peak([(1, 5), (2, 7), (2, -5)]) == 7
    assert memory.find_peak([]) == 0


def test_the_memory_benchmark_has_a_row_for_each_number_of_experts(
    benchmark_modules, capsys, monkeypatch
):
    """Nothing is measured here. The test below measures."""
    del benchmark_modules
    import memory

    def measure_nothing(name, setting, options):
        step_bytes = None if name == "hf" else 10**9
        return (
            {"competitor": name, "process_bytes": 2 * 10**9, "step_bytes": step_bytes}
            | {key: "" for key in ("command", "commit", "machine", "malloc")}
            | {"versions": {}}
        )

    monkeypatch.setattr(memory, "measure_in_another_process", measure_nothing)
    flags = ["--experts", "2", "4", "--competitors", "dense", "gather", "hf", "--hf_python=x"]
    assert memory.main([*TINY_STEP, *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [tuple(c.strip() for c in line.split("|")[1:5]) for line in lines if "|" in line]
    assert rows[2:] == [
        ("dense", "1", "2.00", "1.00"),
        ("gather", "2", "2.00", "1.00"),
        ("gather", "4", "2.00", "1.00"),
        ("hf", "2", "2.00", ""),
        ("hf", "4", "2.00", ""),
    ]


@pytest.mark.slow
def test_the_memory_benchmark_measures_more_with_more_experts(benchmark_modules, capsys):
    del benchmark_modules
    import memory

    flags = ["--experts", "2", "64", "--d_ff=4096", "--d_model=64", "--competitors", "gather"]
    assert memory.main([*TINY_STEP, "--json", *flags]) == 0
    small, large = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    # The gradients of 62 experts more, each of 2 x 64 x 4096 float32 in two layers.
    more = 62 * 2 * 64 * 4096 * 4 * 2
    assert large["step_bytes"] - small["step_bytes"] > 0.5 * more
    assert large["process_bytes"] - small["process_bytes"] > more
    assert small["process_bytes"] > small["step_bytes"] > 0


# Records its arguments in the folder that PYTHONPATH names; `score` fails.
COMMAND = """
import os, sys
with open(os.environ["PYTHONPATH"] + "/calls", "a") as file:
    print(*(word.split("=")[0] for word in sys.argv[1:]), file=file)
if sys.argv[1] == "score":
    sys.exit("run_switch.py: score: a reason")
"""


def test_startup_times_the_commands_of_two_checkouts_in_turns(tmp_path, monkeypatch, capsys):
    for name in ("this", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run_switch.py").write_text(COMMAND)
    monkeypatch.setattr(startup, "_ROOT", tmp_path / "this")
    flags = [f"--other={tmp_path / 'other'}", "--json", "--repetitions=2"]
    assert startup.main([*flags, "--commands", "help", "predict"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(result["what"], result["competitor"]) for result in found] == [
        *(("help", "this"), ("help", "other"), ("predict", "this"), ("predict", "other"))
    ]
    assert [len(result["cpu_seconds"]) for result in found] == [2, 2, 2, 2]
    calls = (tmp_path / "this" / "calls").read_text().splitlines()
    predict = "predict --model_dir --input_file --output_file"
    train = "train --gin_file --gin_file --steps --seed --model_dir"
    assert calls == [train, *["--help"] * 3, *[predict] * 3]
    assert (tmp_path / "other" / "calls").read_text().splitlines() == calls


def test_startup_names_a_command_that_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "run_switch.py").write_text(COMMAND)
    monkeypatch.setattr(startup, "_ROOT", tmp_path)
    assert startup.main(["--repetitions=2", "--commands", "score"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("startup: `run_switch.py score --model_dir=")
    assert error.endswith("fails: run_switch.py: score: a reason")


# The state of the loop is (zeros, copy), and `new` takes the place of `old`.
PROGRAM = """
%body (p: (f32[8,128], f32[8,128])) -> (f32[8,128], f32[8,128]) {
  %p = (f32[8,128]{1,0:T(8,128)}, /*index=1*/f32[8,128]{1,0:T(8,128)}) parameter(0)
  %old = f32[8,128]{1,0:T(8,128)} get-tuple-element((f32[8,128], /*index=1*/f32[8,128]) %p), index=0
  %w = f32[8,128]{1,0:T(8,128)} get-tuple-element((f32[8,128], /*index=1*/f32[8,128]) %p), index=1
  %noise = f32[256,4]{1,0:T(8,128)} copy(f32[8,128] %w), metadata={op_name="a/block_000/layer_001/X/r"}
  %use = f32[8,128]{1,0:T(8,128)} fusion(f32[256,4] %noise), kind=kLoop, calls=%f
  %new = f32[8,128]{1,0:T(8,128)} add(f32[8,128] %old, f32[8,128] %use)
  ROOT %t = (f32[8,128], f32[8,128]) tuple(f32[8,128] %new, f32[8,128] %w)
}

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %zeros = f32[8,128]{1,0:T(8,128)} broadcast()
  %copy = bf16[8,128]{1,0:T(8,128)(2,1)} convert(f32[8,128] %a)
  %state = (f32[8,128], bf16[8,128]) tuple(f32[8,128] %zeros, bf16[8,128] %copy)
  %loop = (f32[8,128], bf16[8,128]) while((f32[8,128], bf16[8,128]) %state), condition=%c, body=%body
  %sum = f32[8,128] get-tuple-element((f32[8,128], bf16[8,128]) %loop), index=0
  ROOT %out = f32[8,128]{1,0:T(8,128)} add(f32[8,128] %a, f32[8,128] %sum)
}
"""


def test_the_tensors_of_the_fullest_moment_are_listed(tmp_path, capsys):
    """In bytes: 4096 zeros, 2048 of the copy, 256 rows of 512 for the noise, 4096 for its use."""
    buffers = live_tensors.read_buffers(PROGRAM)
    _, live = live_tensors.find_fullest(buffers)
    assert sorted(each.bytes for each in live) == [2048, 4096, 4096, 256 * 512]
    assert len(buffers) == 4
    path = tmp_path / "compiled.hlo.txt"
    path.write_text(PROGRAM)
    assert live_tensors.main([str(path), "--rows=1"]) == 0
    first, row = capsys.readouterr().out.splitlines()
    assert first.startswith("0.1 MiB at")
    assert row.split() == ["0.1", "MiB", "1", "x", "f32[256,4]", "a/block_*/layer_*/X"]
