"""Settings of the tests of PJRT."""

from __future__ import annotations

import pytest

from mtf_switch.pjrt import executable


@pytest.fixture(scope="session", autouse=True)
def _compile_quickly():
    """Makes XLA spend no time on the machine code of programs that run a few times."""
    make_options = executable._make_options

    def make_quick_options(mesh):
        options = make_options(mesh)
        debug = options.executable_build_options.debug_options
        debug.xla_backend_optimization_level = 0
        debug.xla_llvm_disable_expensive_passes = True
        return options

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executable, "_make_options", make_quick_options)
        yield
