"""A training step that `benchmarks/portable_step.py` writes runs with JAX alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from jax._src.interpreters import mlir as jax_mlir
from tiny_run import BATCH, FEW_LAYERS, INPUTS, PARAMS, TARGETS

from mtf_switch.programs.program import Program

STEPS = 3


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A step with its weights and batches, and the results of this machine."""
    import portable_step

    params = {**PARAMS, **FEW_LAYERS, "text_files.files": repr(str(tiny.corpus))}
    path = tmp_path_factory.mktemp("portable") / "tiny"
    arguments = [f"--gin_file={tiny.gin_file}", f"--steps={STEPS}", f"--output_dir={path}"]
    arguments += ["--gin_param=MIXTURE_NAME = 'text_files'"]
    arguments += ["--gin_param=utils.run.train_steps = 6"]
    arguments += [f"--gin_param={name} = {value}" for name, value in params.items()]
    with mock.patch.dict(os.environ, tiny.environment):
        assert portable_step.main(arguments) == 0
        # It exists now, and is not written again.
        assert portable_step.main(arguments) == 2
    return path


@pytest.mark.slow
def test_the_results_are_those_of_the_project_bit_for_bit(folder, tmp_path, capfd):
    """All noise is on."""
    import portable_run

    assert portable_run.main([str(folder), f"--output_dir={tmp_path}"]) == 0
    assert "first loss differs by 0.0e+00" in capfd.readouterr().out
    found = json.loads((tmp_path / "tiny.json").read_text())
    assert found["losses"] == found["expected_losses"]
    assert len(found["losses"]) == STEPS
    assert len(set(found["losses"])) == STEPS
    assert {"gradient_norm", "target_sums"} < found["relative_differences"].keys()
    assert all(not any(each) for each in found["relative_differences"].values())


@pytest.mark.slow
def test_other_results_are_seen(folder, tmp_path, capfd):
    """As a control, weights change by one unit in the last place, and results by some of them."""
    import portable_run

    other = shutil.copytree(folder, tmp_path / "other")
    with np.load(other / "results.npz") as file:
        results = dict(file)
    results["loss"][1] *= 1.5
    np.savez(other / "results.npz", **results)
    arguments = [str(other), "--perturb=0", f"--output_dir={tmp_path / 'out'}"]
    assert portable_run.main(arguments) == 0
    found = json.loads((tmp_path / "out/other.json").read_text())
    losses = found["relative_differences"]["loss"]
    np.testing.assert_allclose(losses[1], 1 / 3, rtol=1e-4)
    assert 0 < max(found["relative_differences"]["gradient_norm"]) < 1e-5
    capfd.readouterr()


@pytest.mark.slow
def test_a_step_without_weights_is_timed(folder, tmp_path, capfd):
    import portable_run

    timed = tmp_path / "timed"
    timed.mkdir()
    shutil.copy(folder / "step.stablehlo", timed)
    description = json.loads((folder / "step.json").read_text())
    assert description["tokens_per_step"] == BATCH * (INPUTS + TARGETS)
    (timed / "step.json").write_text(json.dumps({**description, "steps": 0}))
    flags = ["--repetitions=2", "--steps_per_turn=2", f"--output_dir={tmp_path}"]
    assert portable_run.main([str(timed), str(tmp_path / "missing"), *flags]) == 1
    out = capfd.readouterr().out
    assert "tokens/s" in out
    assert "missing failed" in out
    found = json.loads((tmp_path / "timed.json").read_text())
    assert found["is_finite"]
    tokens = description["tokens_per_step"]
    assert found["tokens_per_second"] == pytest.approx(tokens / found["median_seconds"])
    assert found["flops_per_second"] == pytest.approx(
        sum(description["product_flops"].values()) / found["median_seconds"]
    )


def test_each_worker_gets_its_folder_however_the_folders_are_written(monkeypatch, capsys):
    """Shells end the name of a folder with a slash. A flag may have the value of a folder."""
    import portable_run

    commands = []

    def start(command, **_):
        commands.append(command)
        return mock.Mock(returncode=1, communicate=lambda _: ("", None))

    monkeypatch.setattr(portable_run.subprocess, "Popen", start)
    folders = ["steps/a/", "./steps/b", "c"]
    assert portable_run.main([*folders, "--output_dir", "c", "--perturb=3"]) == 1
    capsys.readouterr()

    monkeypatch.setattr(portable_run, "jax", mock.Mock())
    monkeypatch.setattr(portable_run, "run", lambda folder, o: [str(folder), o.perturb])
    assert [portable_run.main(command[2:]) for command in commands] == [0, 0, 0]
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [["steps/a", 3], ["steps/b", 3], ["c", 3]]


def test_portable_run_needs_neither_tensorflow_nor_the_project():
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); "
        "sys.modules.update(tensorflow=None, mtf_switch=None); import portable_run"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_flops_are_those_of_all_products_by_dtype():
    """2 x 2 x 3 x 5 x 7 in float32, and 2 x 4 x 6 x 8 in bfloat16."""
    import portable_step

    def multiply(a, b, c, d):
        return jax.numpy.einsum("bik,bkj->bij", a, b), c @ d

    shapes = (([2, 3, 5], [2, 5, 7]), ([4, 6], [6, 8]))
    arguments = [
        jax.ShapeDtypeStruct(shape, dtype)
        for pair, dtype in zip(shapes, ("float32", "bfloat16"))
        for shape in pair
    ]
    module = jax.jit(multiply).lower(*arguments).compiler_ir()
    program = Program(jax_mlir.module_to_bytecode(module), "", 1, (), (), {})
    artifact, products = portable_step.convert(program)
    assert products == {"float32": 420.0, "bfloat16": 384.0}
    text = jax._src.lib.xla_client._xla.mlir.deserialize_portable_artifact(artifact)
    with jax_mlir.make_ir_context():
        assert "dot_general" in str(jax_mlir.ir.Module.parse(text))


def test_a_loop_is_refused():
    import portable_step

    from mtf_switch.errors import UserError

    module = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y @ y, x)).lower(
        jax.ShapeDtypeStruct([2, 2], "float32")
    )
    program = Program(jax_mlir.module_to_bytecode(module.compiler_ir()), "", 1, (), (), {})
    with pytest.raises(UserError, match="use one microbatch"):
        portable_step.convert(program)


@pytest.mark.parametrize(
    ("kind", "highest", "expected"),
    [
        # (494e12 / 494e12 + 989e12 / 989e12) s of 4 s.
        ("NVIDIA H100 80GB HBM3", False, 0.5),
        # In full precision, the float32 products take 494 / 67 s.
        ("NVIDIA H100 80GB HBM3", True, (494 / 67 + 1) / 4),
        ("cpu", False, None),
    ],
)
def test_the_share_of_the_peak_counts_each_dtype_with_its_own(kind, highest, expected):
    import portable_run

    flops = {"float32": 494e12, "bfloat16": 989e12}
    found = portable_run.compute_share(
        kind, {"product_flops": flops, "highest_precision": highest}, 4.0
    )
    assert found == (None if expected is None else pytest.approx(expected))


def test_the_origin_of_a_kernel_is_read_from_the_program():
    import portable_profile

    text = """
  %loop_add.1 = f32[8]{0} fusion(%a), kind=kLoop, calls=%f, metadata={op_name="encoder/x/add"}
  ROOT %custom-call.2 = f32[8]{0} custom-call(%a), custom_call_target="__cublas$gemm"
"""
    assert portable_profile.read_origins(text) == {
        "loop_add_1": ("encoder/x/add", "kLoop"),
        "custom_call_2": ("", "__cublas$gemm"),
    }


def test_the_page_has_the_tables_of_the_results():
    import portable_table

    assert portable_table.format_page(portable_table.read_results()) in (
        portable_table.PAGE.read_text()
    )


def test_results_are_kept_beside_those_of_other_steps(tmp_path, monkeypatch):
    import portable_table

    origin = {"device": "D", "driver": "1", "cpu_cores": 2, "jax": "9", "commit": "c0ffee"}
    timed = {
        **origin,
        "name": "timed",
        "tokens_per_step": 3000,
        "median_seconds": 0.5,
        "quartiles": [0.25, 0.75],
        "tokens_per_second": 6000.0,
        "flops_per_second": 2e12,
        "peak_share": 0.125,
        "model_flops_per_second": 1e12,
        "peak_bytes": 3 * 2**30,
        "compile_seconds": 61.2,
        "profile": [1, 2, 3],
    }
    differences = {"loss": [1e-7, 3e-6, 2e-6], "gradient_norm": [2e-5, 1e-5, 0.0]}
    compared = {**origin, "name": "compared", "relative_differences": differences}
    page = tmp_path / "page.md"
    page.write_text(
        f"<!-- table: benchmarks/portable_table.py -->\n{portable_table.page_table.END}"
    )
    monkeypatch.setattr(portable_table, "PAGE", page)
    monkeypatch.setattr(portable_table, "RESULTS", tmp_path / "kept.json")
    for found in (timed, compared):
        (tmp_path / "found.json").write_text(json.dumps(found))
        portable_table.main([str(tmp_path / "found.json")])
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.read_text().splitlines()
        if line.startswith(("| timed", "| compared"))
    ]
    times = ["500.0 (250.0 to 750.0)", "6,000", "2.0", "12.5%", "1.0", "3.0 GiB", "61 s"]
    assert rows == [
        ["timed", "3,000", *times],
        ["compared", "1.0e-07", "3.0e-06", "2.0e-05"],
    ]
    assert "D with driver 1, 2 CPU cores, JAX 9; steps of commit c0ffee." in page.read_text()
    assert "profile" not in portable_table.read_results()["timed"]
