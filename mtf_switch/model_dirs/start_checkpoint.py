"""Checks the path of the checkpoint from which fine-tuning starts, without TensorFlow."""

from __future__ import annotations

import os

from mtf_switch import whole_file
from mtf_switch.errors import UserError


def check_path(path: str, flag: str = "--init_checkpoint") -> None:
    """Checks that a path on this machine is a folder or a checkpoint.

    Addresses such as gs://... are not looked up.

    Args:
      path: A checkpoint such as "model.ckpt-1000", or the folder that holds it.
      flag: The flag that names it.

    Raises:
      UserError: If nothing is there.
    """
    is_here = os.path.isdir(path) or os.path.isfile(f"{path}.index")
    if not is_here and not whole_file.is_address(path):
        raise missing(path, flag)


def is_named(checkpoint: str | None, path: str) -> bool:
    """Whether a path names the checkpoint from which a run has started, or its folder.

    The folder may have newer checkpoints by now.

    Args:
      checkpoint: The path of the checkpoint, as config.gin keeps it; None for none.
      path: A path on the command line.
    """
    given = whole_file.make_absolute(path.rstrip("/"))
    return checkpoint is not None and given in (checkpoint, os.path.dirname(checkpoint))


def missing(path: str, flag: str = "--init_checkpoint") -> UserError:
    """Returns the error for a checkpoint that does not exist, and that `flag` names."""
    return UserError(
        f"There is no checkpoint {path!r}. {flag} is a path such as "
        "runs/base/model.ckpt-1000 (without .index), or the folder that holds it."
    )
