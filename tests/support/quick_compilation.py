"""Makes XLA spend no time on the machine code of programs that run a few times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock


@contextlib.contextmanager
def compile_quickly() -> Iterator[None]:
    """Lowers XLA's optimization level for the programs that PJRT compiles."""
    # This import loads TensorFlow and JAX, so it is not at the top.
    from mtf_switch.programs import compile_options

    make_options = compile_options.make_options

    def make_quick_options(devices):
        options = make_options(devices)
        debug = options.executable_build_options.debug_options
        debug.xla_backend_optimization_level = 0
        debug.xla_llvm_disable_expensive_passes = True
        return options

    with mock.patch.object(compile_options, "make_options", make_quick_options):
        yield
