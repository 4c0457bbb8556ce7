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
from typing import Any

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

# Modules that other packages import and few commands use -> functions in them that are looked
# for when they are imported. Such a module is loaded when something reads another of its
# attributes, calls such a function, or imports a module inside it that is not of this table.
# This saves a third of the CPU time of a short `predict`.
LAZY: dict[str, tuple[str, ...]] = {
    # The metrics of T5's tasks.
    "sklearn": (),
    "sklearn.metrics": ("matthews_corrcoef", "fbeta_score"),
    **dict.fromkeys(("scipy.stats", "sacrebleu", "rouge_score.rouge_scorer"), ()),
    "rouge_score.scoring": (),
    # T5's tables of results, TFDS's display of examples, Keras's and Estimator's data frames.
    "pandas": (),
    "tensorflow_datasets.core.as_dataframe": ("as_dataframe",),
    # Keras's images.
    **dict.fromkeys(("scipy.linalg", "scipy.ndimage"), ()),
    # TensorFlow Text's splitters of Chinese, which it downloads.
    "tensorflow_hub": (),
    # seqio's experiments.
    "pyglove": (),
}


class _RepairingFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of the tables in their usual place; repairs them, or delays them."""

    def find_spec(self, name, path, target=None):
        parent = sys.modules.get(name.rpartition(".")[0])
        if name not in LAZY and type(parent) is _DelayedModule:
            _load(parent)
        if name not in BEFORE_IMPORT and name not in AFTER_IMPORT and name not in LAZY:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if name in LAZY:
            if spec is not None:
                spec.loader = _DelayingLoader(spec.loader)
            return spec
        if spec is not None:
            # The loader must keep its class, by which pkg_resources looks up resources.
            spec.loader.exec_module = functools.partial(
                _execute_and_repair, spec.loader.exec_module, name
            )
        return spec


class _DelayingLoader(importlib.abc.Loader):
    """Loads a module when something reads an attribute that is not in it yet.

    `importlib.util.LazyLoader` would load it at its second import, which reads `__spec__`.
    """

    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        for name in LAZY[module.__name__]:
            setattr(module, name, functools.partial(_load_and_call, module, name))
        module.__class__ = _DelayedModule


class _DelayedModule(types.ModuleType):
    """A module that has not been executed yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        _load(self)
        return getattr(self, name)


def _load(module: types.ModuleType) -> None:
    if type(module) is _DelayedModule:
        parent = sys.modules.get(module.__name__.rpartition(".")[0])
        if parent is not None:
            _load(parent)
    # The parent may have used the module.
    if type(module) is _DelayedModule:
        module.__class__ = types.ModuleType
        module.__spec__.loader.exec_module(module)


def _load_and_call(module: types.ModuleType, name: str, *args: Any, **kwargs: Any) -> Any:
    _load(module)
    return getattr(module, name)(*args, **kwargs)


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
