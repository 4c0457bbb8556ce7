"""Selects the checkpoints of a model_dir to evaluate."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Literal, Union

from tqdm import tqdm

from mtf_switch.errors import UserError
from mtf_switch.model_dirs import saved_checkpoints

# The checkpoints to evaluate: the latest one, all, or those of the listed steps.
Selection = Union[Literal["latest", "all"], Sequence[int]]

_SECONDS_BETWEEN_LOOKS = 10.0


def parse_selection(text: str) -> Selection:
    """Parses the value of --checkpoint_steps: "latest", "all", or steps such as "200,400".

    Raises:
      UserError: If it is none of these.
    """
    if text in ("latest", "all"):
        return text
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise UserError(
            f"--checkpoint_steps is {text!r}, but it must be 'all', 'latest', or steps such as "
            "200,400,600."
        ) from error


def select_checkpoints(model_dir: str, selection: Selection) -> list[str]:
    """Returns the paths of the selected checkpoints.

    Raises:
      UserError: If there is no checkpoint, or none for a listed step.
    """
    latest = saved_checkpoints.find_latest(model_dir)
    if selection == "latest":
        return [latest]
    paths = {
        saved_checkpoints.parse_step(path): path
        for path in saved_checkpoints.list_paths(model_dir)
    }
    if selection == "all":
        return list(paths.values())
    for step in selection:
        if step not in paths:
            raise UserError(
                f"{model_dir} has no checkpoint of step {step}; it has those of "
                f"{', '.join(map(str, paths))}."
            )
    return [paths[step] for step in selection]


def wait_for_checkpoints(model_dir: str, last_step: int) -> Iterator[str]:
    """Yields each checkpoint of a run as it appears, up to that of the last step.

    If training removes a checkpoint before its turn, stderr says so.
    """
    done: set[int] = set()
    with tqdm(
        desc="waiting for checkpoints", bar_format="{desc} {elapsed}", disable=None
    ) as bar:
        while last_step not in done:
            new = [
                path
                for path in saved_checkpoints.list_paths(model_dir)
                if saved_checkpoints.parse_step(path) not in done
            ]
            for path in new:
                done.add(saved_checkpoints.parse_step(path))
                if saved_checkpoints.exists(path):
                    yield path
                else:
                    print(
                        f"Training removed {path} before it was evaluated. To keep more, train "
                        "with a higher utils.run.keep_checkpoint_max.",
                        file=sys.stderr,
                    )
            if not new:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                bar.refresh()
