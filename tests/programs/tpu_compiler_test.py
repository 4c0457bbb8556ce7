"""Finding the TPU's compiler, and its errors. No test here runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mtf_switch.errors import UserError
from mtf_switch.programs import tpu_compiler
from mtf_switch.programs.program import Program
from mtf_switch.programs.topology import Topology

POD = Topology("v3:2x2", 8)
# The head of a shared library for 64-bit Linux, without its machine.
HEAD = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A file that the environment names as the compiler."""
    library = tmp_path / "libtpu.so"
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(library))
    monkeypatch.setattr(tpu_compiler.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")
    return library


def test_a_library_for_this_machine_is_found(place):
    place.write_bytes(HEAD + (62).to_bytes(2, "little"))
    assert tpu_compiler.find_library() == place


def test_a_library_for_another_processor_is_refused(place):
    place.write_bytes(HEAD + (183).to_bytes(2, "little"))  # AArch64
    with pytest.raises(UserError, match="is not a library for Linux on x86-64"):
        tpu_compiler.find_library()


def test_a_missing_compiler_is_reported_with_the_command_that_installs_it(place, monkeypatch):
    monkeypatch.setattr(tpu_compiler, "_FOLDER", Path("/nowhere"))
    monkeypatch.setattr(tpu_compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"is not installed: run `make install-compiler`"):
        tpu_compiler.find_library()


def test_another_platform_is_refused(place, monkeypatch):
    place.write_bytes(HEAD + (62).to_bytes(2, "little"))
    monkeypatch.setattr(tpu_compiler.platform, "machine", lambda: "aarch64")
    with pytest.raises(UserError, match="exists for Linux on x86-64 only, and this machine is"):
        tpu_compiler.find_library()


def test_an_older_python_is_refused_before_the_compiler_is_looked_for(place, monkeypatch):
    monkeypatch.setattr(tpu_compiler, "_PYTHON", (99, 0))
    with pytest.raises(
        UserError, match=r"needs jax 0\.4\.34, and thus Python 3\.10 or 3\.11, but"
    ):
        tpu_compiler.find_library()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            "INTERNAL: Internal error when accessing libtpu multi-process lockfile.",
            "Another process holds the lock of the TPU's library",
        ),
        (
            'INVALID_ARGUMENT: Topology layout "v3:1x1" is not divisible by "2x2x1"',
            "The compiler does not accept the topology v3:2x2: INVALID_ARGUMENT",
        ),
        (
            'UNIMPLEMENTED: no sort: op_name="encoder/block_000/layer_001/SwitchFFN/top_k/Top"',
            "The TPU's compiler refuses the operation encoder/block_000/layer_001/SwitchFFN/"
            "top_k/Top of the layer encoder/block_000/layer_001/SwitchFFN: UNIMPLEMENTED",
        ),
        ("UNKNOWN: failed", "The TPU's compiler refuses the program: UNKNOWN: failed"),
    ],
)
def test_an_error_of_the_compiler_is_one_sentence(error, said):
    explained = tpu_compiler._explain(error, POD)
    assert explained.startswith(said)
    assert "\n" not in explained


def test_a_killed_compiler_is_said_to_lack_memory(tmp_path):
    assert "this machine has too little memory" in tpu_compiler._explain_death(-9, "")
    assert tpu_compiler._explain_death(1, "a\nImportError: x\n").endswith("ImportError: x")
    assert "it printed nothing" in tpu_compiler._explain_death(1, "")


def test_a_compiler_that_ends_without_an_outcome_is_reported(tmp_path, monkeypatch):
    """The worker's own process, with a library that is none."""
    library = tmp_path / "libtpu.so"
    library.write_bytes(b"")
    (tmp_path / "program.mlir").write_bytes(b"")
    outcome = tpu_compiler._run_worker(tmp_path, POD, library)
    assert "error" in outcome


def test_without_the_memory_of_a_core_there_is_no_verdict(monkeypatch) -> None:
    outcome = {"probe": "out of\nluck", "bytes": {}, "device_kind": "TPU v3"}
    monkeypatch.setattr(tpu_compiler, "find_library", lambda: None)
    monkeypatch.setattr(tpu_compiler, "_run_worker", lambda *_: outcome)
    program = Program(b"", "data:8", 8, (), (), {})
    with pytest.raises(UserError, match=r"whether this one fits.*says: out of luck\Z"):
        tpu_compiler.compile_program(program, POD)
