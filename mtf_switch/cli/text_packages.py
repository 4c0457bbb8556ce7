"""Refuses the multilingual text before TensorFlow is imported, if its packages are missing."""

from __future__ import annotations

from collections.abc import Sequence

from mtf_switch import whole_file
from mtf_switch.config import given_bindings, saved_config

# The name of the mixture; its tasks are multilingual.de and so on.
_MULTILINGUAL = "multilingual"


def check(files: Sequence[str], params: Sequence[str], model_dir: str | None = None) -> None:
    """Checks that the packages are there, if the task or the vocabulary needs them.

    Args:
      files: The gin files of a command.
      params: Its gin bindings, with those of its flags.
      model_dir: The folder of a run, whose configuration has what neither of them binds.

    Raises:
      UserError: If a package is missing; the message names the command that downloads it.
    """
    # A file at an address needs TensorFlow anyway.
    if model_dir is not None and whole_file.is_address(model_dir):
        model_dir = None
    given = {
        (binding.name.split(".")[-1], binding.parameter): binding.value
        for binding in given_bindings.read(files, params)
    }
    task = given.get(("MIXTURE_NAME", ""))
    if task is None and model_dir is not None:
        task = saved_config.read_task(model_dir)
    texts = (task, given.get(("task_vocabulary", "source")))
    if not any(isinstance(name, str) and name.split(".")[0] == _MULTILINGUAL for name in texts):
        return
    saved = saved_config.read_values(model_dir, _MULTILINGUAL) if model_dir else {}
    if given.get((_MULTILINGUAL, "catalogues"), saved.get("catalogues")) is not None:
        return
    from tasks import catalogue_files

    catalogue_files.Catalogues().paths()
