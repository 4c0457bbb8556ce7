"""All benchmarks in one command."""

from __future__ import annotations

import json
import types

import run_all


def test_all_benchmarks_make_one_page_and_a_failure_stops_none(capsys, monkeypatch, tmp_path):
    """The benchmarks here measure nothing."""
    seen = []
    origin = {"command": "python x", "commit": "c0ffee", "machine": "M", "malloc": "default"}
    result = {"competitor": "dense", "experts": 1, "process_bytes": 3 * 10**9}
    result |= {"step_bytes": 10**9, "versions": {"numpy": "1"}, **origin}

    def run(command, **options):
        del options
        seen.append(command[2:])
        fails = "train_step" in command[1]
        return types.SimpleNamespace(
            returncode=fails, stdout="" if fails else json.dumps(result)
        )

    monkeypatch.setattr(run_all.subprocess, "run", run)
    flags = ["--only", "memory", "step", "--hf_python=x", "--repetitions=2"]
    assert run_all.main([*flags, f"--output_dir={tmp_path}"]) == 1
    expected = [
        "--json",
        "--repetitions=2",
        "--hf_python=x",
        "--competitors",
        "dense",
        "gather",
    ]
    assert seen == [[*expected, "einsum", "upstream", "hf_dense", "hf"]] * 2
    commands = {b.name: b.command("x", 2)[2:] for b in run_all.BENCHMARKS}
    assert commands["decode"][2:] == ["--hf_python=x", "--competitors", "this", "hf"]
    assert commands["pjrt"][-1] == "--rounds=2"
    page = (tmp_path / "benchmarks.md").read_text()
    out, err = capsys.readouterr()
    assert page in out
    assert "| dense      | 1       | 3.00" in page
    assert "`python x`; commit c0ffee; M; numpy 1; GLIBC_TUNABLES: default" in page
    assert json.loads((tmp_path / "memory.json").read_text()) == [result]
    assert "these benchmarks failed: step" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmarks.md", "memory.json"]
