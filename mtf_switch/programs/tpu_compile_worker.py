"""Compiles a program with the TPU's compiler, in a process of its own.

    python -m mtf_switch.programs.tpu_compile_worker FOLDER TOPOLOGY

It reads FOLDER/program.mlir. It writes FOLDER/compiled.txt, the optimised HLO, and
FOLDER/outcome.json. `tpu_compiler` sets the environment and reads the files.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from jax import version
from jax._src.lib import xla_client
from jax.experimental import topologies

from mtf_switch import machine
from mtf_switch.programs import compile_options

# Fields of XLA's CompiledMemoryStats -> names in the outcome.
_SIZES = {
    "argument_size_in_bytes": "arguments",
    "output_size_in_bytes": "outputs",
    "alias_size_in_bytes": "donated",
    "temp_size_in_bytes": "temporaries",
    "generated_code_size_in_bytes": "code",
}
# Messages may contain the whole program.
_MAX_MESSAGE = 20_000
# Sixteen arguments of 8 GiB.
_TENSOR = "tensor<65536x65536xbf16>"
_NAMES = [f"%a{index}" for index in range(16)]
_TOO_LARGE = f"""
func.func public @main({", ".join(f"{name}: {_TENSOR}" for name in _NAMES)}) -> {_TENSOR} {{
  %0 = stablehlo.add %a0, %a1 : {_TENSOR}
  return %0 : {_TENSOR}
}}
"""


def main(folder: Path, topology: str) -> None:
    """Compiles the program of a folder, and writes the outcome."""
    outcome: dict[str, Any] = {"versions": {"jax": version.__version__}}
    start = time.monotonic()
    try:
        devices = topologies.get_topology_desc(topology, "tpu").devices
        outcome["device_kind"] = devices[0].device_kind
        outcome["versions"]["compiler"] = devices[0].client.platform_version
        outcome["probe"] = _overflow_memory(devices)
        start = time.monotonic()
        executable = devices[0].client.compile(
            (folder / "program.mlir").read_bytes(), compile_options.make_options(devices)
        )
        stats = executable.get_compiled_memory_stats()
        outcome["bytes"] = {name: getattr(stats, field) for field, name in _SIZES.items()}
        text = executable.hlo_modules()[0].to_string()
        (folder / "compiled.txt").write_text(text, encoding="utf-8")
    # The compiler's errors have many types; the message tells what happened.
    except Exception as error:
        outcome["error"] = f"{type(error).__name__}: {error}"[:_MAX_MESSAGE]
    outcome["seconds"] = time.monotonic() - start
    outcome["cpu_seconds"] = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    outcome["peak_rss_bytes"] = machine.read_peak_memory()
    (folder / "outcome.json").write_text(json.dumps(outcome, indent=2), encoding="utf-8")


def _overflow_memory(devices: Any) -> str:
    """Compiles a program that no core can hold. Its refusal states the usable memory."""
    try:
        devices[0].client.compile(_TOO_LARGE.encode(), compile_options.make_options(devices))
    except xla_client.XlaRuntimeError as error:
        return str(error)[:_MAX_MESSAGE]
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
