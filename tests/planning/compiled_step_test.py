"""Verdicts and reports of compiled steps, by hand. No test here runs a compiler."""

from __future__ import annotations

import dataclasses
import json

import pytest
from pod_hardware import read_hardware

from mtf_switch import errors
from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.errors import TooLargeError, UserError
from mtf_switch.planning import compile_report, compiled_step
from mtf_switch.planning.compiled_step import CompiledStep
from mtf_switch.planning.core_memory import StepBatch, VariableSize
from mtf_switch.programs.compilation import Allocation, Compilation, CompiledBytes, Refusal
from mtf_switch.programs.compiled_hlo import CompiledCollective
from mtf_switch.programs.program import Program, Value

GIB = 2**30
LAYOUT = MeshLayout.parse("data:8", "batch:data,experts:data")
BATCH = StepBatch(sequences=64, sequence_length=512)
# 32 GiB of float32 experts: 4 GiB on each of 8 cores.
EXPERTS = VariableSize("experts", (("experts", 128), ("d_model", 2**26)), 4)
OUTCOME = Compilation(
    topology="v3:2x2",
    core="TPU v3",
    usable_bytes=int(15.48 * GIB),
    bytes=CompiledBytes(4 * GIB, 4 * GIB, 4 * GIB, 2 * GIB, GIB),
    refusal=None,
    collectives=[CompiledCollective("all_reduce", 8, "bfloat16", (64, 8), 3, 2048, 2, False)],
    seconds=20.0,
    cpu_seconds=25.0,
    peak_rss_bytes=GIB,
    versions={"jax": "0.4.34", "compiler": "TFRT TPU v3\nBuilt"},
    hlo="HloModule main",
)
LAYER = "encoder/block_000/layer_001/SwitchFFN"
REFUSED = dataclasses.replace(
    OUTCOME,
    bytes=None,
    hlo="",
    collectives=[],
    refusal=Refusal(
        20 * GIB,
        (
            Allocation(3 * GIB, "bf16[8]", f"{LAYER}/einsum/Einsum"),
            Allocation(2 * GIB, "bf16[9]", f"{LAYER}/einsum_1/Einsum"),
            Allocation(GIB, "f32[7]", ""),
        ),
        "RESOURCE_EXHAUSTED",
    ),
)
WEIGHTS = Value("w", "float32", (4, 2), ("data", ""))
PROGRAM = Program(b"module", "data:8", 8, (WEIGHTS,), (WEIGHTS,), {0: 0})


def make_step(outcome=OUTCOME) -> CompiledStep:
    verdict = compiled_step.judge(outcome, [EXPERTS], LAYOUT, BATCH, read_hardware())
    return CompiledStep("train", LAYOUT, None, PROGRAM, outcome, verdict, 3.0)


def test_a_step_that_fits_says_so():
    """4 GiB of arguments, donated outputs, 2 GiB of temporaries and 1 of code."""
    step = make_step()
    assert step.fits
    assert step.verdict == (
        "It fits: it needs 7.00 GiB per core, and a program can use 15.48 GiB of a TPU v3 core."
    )
    step.check_fits()


def test_a_refused_step_names_its_layers_and_what_would_fit():
    """20 GiB with 4 of experts leave 16 for activations, of which 11.48 fit: 4 of 8 sequences."""
    step = make_step(REFUSED)
    assert not step.fits
    assert step.verdict == (
        "It does not fit: the TPU's compiler refuses it, because it needs at least 20.00 GiB "
        "per core, 4.52 GiB more than the 15.48 GiB that a program can use of a TPU v3 core. The "
        f"largest allocations that it names: 5.00 GiB in {LAYER}, 1.00 GiB in f32[7]. To make it fit, "
        "use microbatches of 4 sequences per core instead of 8 (--gin_param='utils."
        "serialize_num_microbatches.tokens_per_microbatch_per_replica = 2048'), or a mesh of 32 "
        "cores with the same rules (data:32)."
    )


def test_a_refusal_without_numbers_states_none():
    refusal = dataclasses.replace(REFUSED.refusal, needed_bytes=None, largest=())
    assert make_step(dataclasses.replace(REFUSED, refusal=refusal)).verdict == (
        "It does not fit: the TPU's compiler refuses it, because it needs more than the 15.48 GiB "
        "that a program can use of a TPU v3 core."
    )


def test_a_refused_step_ends_a_command_with_exit_code_3(capsys):
    step = make_step(REFUSED)
    with pytest.raises(TooLargeError):
        step.check_fits()
    assert errors.run_command(step.check_fits, "run") == 3
    assert capsys.readouterr().err.startswith("run: It does not fit: the TPU's compiler")


def test_a_step_whose_code_is_one_too_much_does_not_fit():
    large = dataclasses.replace(OUTCOME, bytes=CompiledBytes(15 * GIB, 0, 0, 0, GIB))
    step = make_step(large)
    assert not step.fits
    assert step.verdict.startswith("It compiles, but it does not fit: it needs 16.00 GiB")


def test_the_report_has_the_memory_the_collectives_and_the_cost():
    text = " ".join(compile_report.report_step(make_step()).text.split())
    for part in (
        "training step on v3:2x2: 8 TPU v3 cores (data:8)",
        "arguments - 4.00 GiB",
        "outputs in memory of their own - 0 B",
        "total - 7.00 GiB",
        "all_reduce - 2 4.00 KiB",
        "all_reduce 2.00 KiB 2 8 3 bfloat16[64,8]",
        "compiled in 20 s (25 s of CPU time) with 1.00 GiB of memory",
    ):
        assert part in text


def test_collectives_of_a_loop_without_a_known_length_say_so():
    collectives = [
        CompiledCollective("all_reduce", 8, "bfloat16", (64, 8), 3, 2048, 2, False),
        CompiledCollective("all_reduce", 8, "bfloat16", (64, 4), 3, 1024, 5, True),
    ]
    step = make_step(dataclasses.replace(OUTCOME, collectives=collectives))
    text = " ".join(compile_report.report_step(step).text.split())
    assert "all_reduce - 2 4.00 KiB all_reduce, per iteration - 5 5.00 KiB" in text
    assert "all_reduce, per iteration 1.00 KiB 5 8 3 bfloat16[64,4]" in text
    assert "(Per iteration: in a loop whose length depends on the data" in text
    assert "Per iteration" not in compile_report.report_step(make_step()).text


def test_a_comparison_has_a_row_for_each_layout_and_the_refusals():
    report = compile_report.report_comparison({"a": make_step(), "b": make_step(REFUSED)})
    rows = report.text.splitlines()
    assert "7.00 GiB  yes" in rows[1]
    assert "no" in rows[2].split()
    assert report.text.endswith(make_step(REFUSED).verdict)
    assert report.data["steps"]["b"]["compiler"]["refusal"]["needed_bytes"] == 20 * GIB


def test_the_output_folder_has_the_program_and_its_signature(tmp_path):
    folder = tmp_path / "compiled"
    steps = {"": make_step()}
    compile_report.write(compile_report.report_step(steps[""]), steps, str(folder))
    assert {path.name for path in folder.iterdir()} == {
        *("compile.json", "compile.txt", "program.mlirbc", "signature.json"),
        "compiled.hlo.txt",
    }
    signature = json.loads((folder / "signature.json").read_text())
    assert signature["inputs"] == [
        {
            **{"name": "w", "dtype": "float32", "shape": [4, 2], "axes": ["data", ""]},
            "donated_to": "w",
        }
    ]
    with pytest.raises(UserError, match=r"compile\.json already exists"):
        compile_report.check_output_dir(str(folder), False)
    compile_report.check_output_dir(str(folder), True)
