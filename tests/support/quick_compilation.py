"""Makes XLA spend no time on the machine code of programs that run a few times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock


@contextlib.contextmanager
def compile_quickly() -> Iterator[None]:
    """Lowers XLA's optimization level for the programs that PJRT compiles."""
    # This import loads TensorFlow and JAX, so it is not at the top.
    from mtf_switch.pjrt import executable

    make_options = executable._make_options

    def make_quick_options(mesh):
        options = make_options(mesh)
        debug = options.executable_build_options.debug_options
        debug.xla_backend_optimization_level = 0
        debug.xla_llvm_disable_expensive_passes = True
        return options

    with mock.patch.object(executable, "_make_options", make_quick_options):
        yield
