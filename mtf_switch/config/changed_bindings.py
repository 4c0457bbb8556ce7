"""Finds what a command has changed in the configuration of a trained model.

`eval --gin_param='ExpertCapacity.capacity_factor_eval = 1.0'` evaluates a model that differs
from the one that the model_dir describes. Its results are kept apart from those of that model,
and so are results for other data, such as other sequence lengths.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from mtf_switch.config import (
    absolute_paths,
    gin_config,
    gin_statements,
    given_bindings,
    saved_config,
    unread_bindings,
)
from mtf_switch.config.gin_statements import Binding

# Bindings that say how a run is trained, where it runs, and which data it reads ...
_NOT_OF_THE_RESULT = (
    *saved_config.MAY_CHANGE,
    *("run", "seed.value", "mesh_train_dataset_fn", "own_data", "task_vocabulary"),
)
# ... except for these, which decide the result of an evaluation. Without
# `ExpertCapacity.group_size`, the batch decides the groups, and thus the dropped tokens. The
# names of results state the task, the split and the number of examples on their own.
_OF_THE_RESULT = (
    *("run.batch_size", "run.model_type", "run.sequence_length"),
    *(
        f"mesh_eval_dataset_fn.{parameter}"
        for parameter in ("pack", "seed", "shuffle_eval_examples", "use_cached")
    ),
)
# So do these for the task of the user's own files, unless the command gives it another name.
_OF_OWN_DATA = tuple(
    f"own_data.{parameter}"
    for parameter in (
        *("train_file", "validation_file", "test_file"),
        *("inputs_column", "targets_column", "prefix"),
    )
)
# A longer name of a file is replaced by a hash.
_LONGEST_NAME = 80


def find(model_dir: str) -> dict[str, str]:
    """Finds the bindings that differ from the config.gin of a model_dir and decide results.

    They are those of the model, of its batches, and of the data of a task. Parameters that only
    a newer defaults.gin binds are none of them.

    Args:
      model_dir: The model_dir. It need not have a config.gin.

    Returns:
      Parameter -> the parsed value, in gin's notation, without macros; sorted.
    """
    text = saved_config.read_file(model_dir, "config.gin")
    if text is None:
        return {}
    given = unread_bindings.get_given()
    asked = {_identify(b) for b in given_bindings.read(given.files, given.params)}
    saved = {_identify(b): b for b in _resolve(gin_statements.read_bindings(text))}
    parsed = _resolve(gin_statements.read_bindings(gin_config.to_text()))
    # The name of another task says that its data differ.
    is_own_task = _find_own_task(saved.values()) == _find_own_task(parsed)
    decisive = (*_OF_THE_RESULT, *(_OF_OWN_DATA if is_own_task else ()))
    return {
        binding.key: binding.value_text
        for binding in parsed
        if (
            saved_config.is_named(binding, decisive)
            or not saved_config.is_named(binding, _NOT_OF_THE_RESULT)
        )
        and (
            saved[_identify(binding)].value_text != binding.value_text
            if _identify(binding) in saved
            else _identify(binding) in asked
        )
    }


def _find_own_task(bindings: Iterable[Binding]) -> str | None:
    """Returns the name of the task of the user's own files, or None."""
    names = [b.value for b in bindings if saved_config.is_named(b, ("own_data.name",))]
    return names[0] if names else None


def leave_out_data(changes: Mapping[str, str]) -> dict[str, str]:
    """Returns the changed bindings without those that choose or make the examples."""
    return {
        name: value
        for name, value in changes.items()
        if not {"mesh_eval_dataset_fn", "own_data"} & set(name.split("."))
    }


def _identify(binding: Binding) -> tuple[str, str, str]:
    return binding.scope, binding.base_name, binding.parameter


def _resolve(bindings: Sequence[Binding]) -> list[Binding]:
    """Returns the bindings of parameters, sorted, without macros and with absolute paths."""
    macros = {b.key: b.value for b in bindings if not b.parameter}
    resolved = [
        absolute_paths.convert(gin_statements.resolve_macros(binding, macros))
        for binding in bindings
        if binding.parameter
    ]
    return sorted(resolved, key=lambda binding: binding.key)


def describe(changes: Mapping[str, str]) -> str:
    """Formats changed bindings for people: "a.b = 1.0, a.c = 2"."""
    return ", ".join(f"{name} = {value}" for name, value in changes.items())


def name_files(changes: Mapping[str, str]) -> str:
    """Returns the part of a file's name that states changed bindings; "" without any.

    It is "a.b=1.0-a.c=2". If that is long, or has characters that do not belong in the name of
    a file, it is "changed-" and a hash.
    """
    name = "-".join(f"{name}={value}" for name, value in changes.items()).replace("'", "")
    if len(name) <= _LONGEST_NAME and re.fullmatch(r"[\w.=+-]*", name):
        return name
    return "changed-" + hashlib.sha256(describe(changes).encode()).hexdigest()[:8]
