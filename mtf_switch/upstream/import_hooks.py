"""Runs each repair when the module that it repairs is imported.

Nothing on disk is edited. `repair_on_import` adds a finder to Python's import system. The
finder runs a repair when any code imports the module. If the module is already loaded, the
repair runs at once. On TensorFlow 2.13 and later, `import mesh_tensorflow` fails inside Mesh
TensorFlow; after `import mtf_switch` it works.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable

from mtf_switch.upstream import (
    gin_repairs,
    mesh_tensorflow_repairs,
    t5_repairs,
    tfds_repairs,
)

# Module -> the repair that runs before its import, which would otherwise fail.
BEFORE_IMPORT: dict[str, Callable[[], None]] = {
    "mesh_tensorflow": mesh_tensorflow_repairs.restore_register_tensor_conversion_function,
    "t5.models": t5_repairs.install_stand_in_for_torch_model,
}
# Module -> the repairs that run after its import and change it.
AFTER_IMPORT: dict[str, tuple[Callable[[types.ModuleType], None], ...]] = {
    "gin.config_parser": (gin_repairs.keep_infinity,),
    "gin.resource_reader": (
        gin_repairs.silence_failed_lookups,
        gin_repairs.ignore_folders_without_python,
    ),
    "mesh_tensorflow.simd_mesh_impl": (mesh_tensorflow_repairs.mark_flags_as_parsed,),
    "tensorflow_datasets.core.download.downloader": (tfds_repairs.end_silent_downloads,),
}


class _RepairingFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of the two tables in their usual place, and repairs them on load."""

    def find_spec(self, name, path, target=None):
        if name not in BEFORE_IMPORT and name not in AFTER_IMPORT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            # The loader must keep its class, by which pkg_resources looks up resources.
            spec.loader.exec_module = functools.partial(
                _execute_and_repair, spec.loader.exec_module, name
            )
        return spec


def _execute_and_repair(execute: Callable, name: str, module: types.ModuleType) -> None:
    if name in BEFORE_IMPORT:
        BEFORE_IMPORT[name]()
    execute(module)
    for repair in AFTER_IMPORT.get(name, ()):
        repair(module)


def repair_on_import() -> None:
    """Installs the repairs of the two tables. A second call changes nothing."""
    if any(isinstance(finder, _RepairingFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _RepairingFinder())
    for name, repairs in AFTER_IMPORT.items():
        if name in sys.modules:
            for repair in repairs:
                repair(sys.modules[name])
