"""Compiles programs with the TPU's own compiler, libtpu, on a machine without a TPU.

The compiler runs in a process of its own (`tpu_compile_worker`): its environment variables and
its lock do not touch this process, and its peak memory is its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mtf_switch.errors import UserError
from mtf_switch.programs import compilation, compiled_hlo, operation_names
from mtf_switch.programs.compilation import Compilation, CompiledBytes
from mtf_switch.programs.program import Program
from mtf_switch.programs.topology import Topology

# Where `make install-compiler` puts libtpu. If it were among the other packages, JAX would look
# for a TPU in every process that uses it, which takes minutes on a machine without one.
_FOLDER = Path(sys.prefix) / "tpu_compiler"
_LIBRARY = "TPU_LIBRARY_PATH"
# Of the versions of jax in the lock, only that for Python 3.10 and 3.11 fits libtpu.
_PYTHON = (3, 10)
# The first bytes of a shared library for 64-bit little-endian Linux, and its machine: x86-64.
_ELF, _X86_64 = b"\x7fELF\x02\x01", 62


def find_library() -> Path:
    """Returns the path of libtpu.so.

    Raises:
      UserError: If it is missing, or is not for this machine or this Python.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UserError(
            "The TPU's compiler, libtpu, exists for Linux on x86-64 only, and this machine is "
            f"{platform.system()} on {platform.machine()}. Run this command on such a machine; "
            "`plan` without --compile works here."
        )
    if sys.version_info < _PYTHON:
        raise UserError(
            "The TPU's compiler needs jax 0.4.34, and thus Python 3.10 or 3.11, but this is "
            f"Python {platform.python_version()}. Make the environment again with `make clean` "
            "and `make install-compiler PYTHONS=python3.11`; `plan` without --compile works "
            "here."
        )
    package = importlib.util.find_spec("libtpu")
    folders = [
        _FOLDER / "libtpu",
        *map(Path, package.submodule_search_locations if package else ()),
    ]
    places = [folder / "libtpu.so" for folder in folders]
    if _LIBRARY in os.environ:
        places.insert(0, Path(os.environ[_LIBRARY]))
    library = next((place for place in places if place.is_file()), None)
    if library is None:
        raise UserError(
            "The TPU's compiler is not installed: run `make install-compiler`, which downloads "
            f"libtpu (129 MB) into {_FOLDER}."
        )
    with open(library, "rb") as file:
        head = file.read(20)
    if head[:6] != _ELF or int.from_bytes(head[18:20], "little") != _X86_64:
        raise UserError(
            f"{library} is not a library for Linux on x86-64. Run `make install-compiler` "
            "again."
        )
    return library


def compile_program(program: Program, topology: Topology) -> Compilation:
    """Compiles a program for a pod.

    Args:
      program: The program of one core.
      topology: The pod, with as many cores as the program.

    Raises:
      UserError: If the compiler is missing, does not know the topology, is killed, does not say
        how much memory a core has, or refuses the program for a reason other than its memory.
    """
    library = find_library()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "program.mlir").write_bytes(program.stablehlo)
        outcome = _run_worker(folder, topology, library)
        compiled = folder / "compiled.txt"
        hlo = compiled.read_text(encoding="utf-8") if compiled.exists() else ""
    error = outcome.get("error", "")
    refusal = compilation.read_refusal(error)
    if error and not refusal:
        raise UserError(_explain(error, topology))
    usable = compilation.read_usable(error) or compilation.read_usable(outcome["probe"])
    if usable is None:
        raise UserError(
            "The TPU's compiler does not say how much memory of a core a program can use, so "
            "nobody can tell whether this one fits. About a program that no core can hold, it "
            "says: "
            f"{' '.join(outcome['probe'].split())[:300] or 'nothing'}"
        )
    return Compilation(
        topology=topology.name,
        core=outcome["device_kind"],
        usable_bytes=usable,
        bytes=CompiledBytes(**outcome["bytes"]) if "bytes" in outcome else None,
        refusal=refusal,
        collectives=compiled_hlo.count_collectives(hlo, program.cores) if hlo else [],
        seconds=outcome["seconds"],
        cpu_seconds=outcome["cpu_seconds"],
        peak_rss_bytes=outcome["peak_rss_bytes"],
        versions=outcome["versions"],
        hlo=hlo,
    )


def _run_worker(folder: Path, topology: Topology, library: Path) -> dict[str, Any]:
    """Runs the compiler in a process of its own, and returns what it reports."""
    with open(folder / "log", "w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mtf_switch.programs.tpu_compile_worker"),
                *(str(folder), topology.name),
            ],
            env=_make_environment(library),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            _wait(process, f"compile for {topology.name}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        said = log.read()
    outcome = folder / "outcome.json"
    if not outcome.exists():
        raise UserError(_explain_death(process.returncode, said))
    return json.loads(outcome.read_text(encoding="utf-8"))


def _wait(process: subprocess.Popen, label: str) -> None:
    """Waits for a process, and shows the time that it has taken."""
    with tqdm(desc=label, bar_format="{desc}: {elapsed}", leave=False, disable=None) as bar:
        while True:
            try:
                process.wait(timeout=0.5)
                return
            except subprocess.TimeoutExpired:
                bar.update()


def _make_environment(library: Path) -> dict[str, str]:
    """Returns the environment of the compiler's process."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        _LIBRARY: str(library),
        # Only compile: ask no Google Cloud server for a TPU, and keep no lock and no log.
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v3-8",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_LOG_DIR": "disabled",
    }


def _explain(error: str, topology: Topology) -> str:
    """Explains an error of the compiler in one sentence."""
    first = " ".join(error.split())[:300]
    if "lockfile" in error or "already in use" in error:
        return (
            "Another process holds the lock of the TPU's library (/tmp/libtpu_lockfile). Wait "
            f"until it ends, or stop it. The compiler says: {first}"
        )
    if "opology" in error and "op_name" not in error:
        return f"The compiler does not accept the topology {topology.name}: {first}"
    operation = operation_names.find_operation(error)
    layer = operation_names.find_layer(operation)
    place = f" the operation {operation}" + (f" of the layer {layer}" if layer else "")
    return f"The TPU's compiler refuses{place if operation else ' the program'}: {first}"


def _explain_death(code: int, log: str) -> str:
    """Explains why the compiler's process ended without an outcome."""
    if "lockfile" in log or "already in use" in log:
        return _explain(log, Topology("", 0))
    if code == -9:
        return (
            "The TPU's compiler was killed, probably because this machine has too little "
            "memory: compiling a full-size model takes up to 10 GB (docs/tpu_compiler.md)."
        )
    lines = [line for line in log.strip().splitlines() if line.strip()]
    last = " ".join(lines[-1].split())[:300] if lines else "it printed nothing"
    return f"The TPU's compiler ended with exit code {code} before it was done: {last}"
