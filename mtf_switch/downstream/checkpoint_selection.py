"""Selects the checkpoints of a model_dir to evaluate."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Union

from tqdm import tqdm

from mtf_switch.config import saved_config
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.runs.run import Run

# The checkpoints to evaluate: the latest one, all, or those of the listed steps.
Selection = Union[Literal["latest", "all"], Sequence[int]]

_SECONDS_BETWEEN_LOOKS = 10.0
_KEEP_MORE = "To keep more, train with a higher utils.run.keep_checkpoint_max."


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


class FollowedRun:
    """When a run ends, and how often it saves: a further `train` may change both.

    Training writes them into config.gin. A value that has changed there since the start
    replaces the one in the settings.
    """

    def __init__(self, run: Run):
        """Remembers the present values."""
        self._run = run
        self._before = self._read()

    @property
    def last_step(self) -> int:
        """The step at which training ends."""
        return self._find("train_steps")

    @property
    def interval(self) -> int:
        """Steps between checkpoints."""
        return self._find("save_checkpoints_steps")

    def _find(self, name: str) -> int:
        saved = self._read().get(name)
        is_new = isinstance(saved, int) and saved != self._before.get(name)
        return saved if is_new else getattr(self._run.settings, name)

    def _read(self) -> dict[str, Any]:
        return saved_config.read_values(self._run.model_dir, "run")


def wait_for_checkpoints(model_dir: str, followed: FollowedRun) -> Iterator[str]:
    """Yields each checkpoint of a run as it appears, up to that of the last step.

    If training removes a checkpoint before its turn, stderr says so, also if it was saved and
    removed between two looks. Checkpoints that were removed before the first look count as
    older than the call.

    Args:
      model_dir: The folder of the run.
      followed: When the run ends.
    """
    done: set[int] = set()
    newest: int | None = None
    with tqdm(
        desc="waiting for checkpoints", bar_format="{desc} {elapsed}", disable=None
    ) as bar:
        while newest is None or newest != followed.last_step:
            new = {
                step: path
                for path in saved_checkpoints.list_paths(model_dir)
                if (step := saved_checkpoints.parse_step(path)) not in done
            }
            if newest is not None:
                _print_removed([newest, *new], followed.interval)
            for step, path in new.items():
                done.add(step)
                if saved_checkpoints.exists(path):
                    yield path
                else:
                    print(
                        f"Training removed {path} before it was evaluated. {_KEEP_MORE}",
                        file=sys.stderr,
                    )
            newest = max(done, default=0)
            if not new and newest > followed.last_step:
                print(
                    f"The config.gin of {model_dir} says that training ends at step "
                    f"{followed.last_step}, but it has a checkpoint of step {newest}. Later "
                    "ones are not waited for.",
                    file=sys.stderr,
                )
                return
            if not new:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                bar.refresh()


def _print_removed(steps: Sequence[int], interval: int) -> None:
    """Prints where steps are further apart than the interval at which training saves."""
    for step, following in zip(steps, steps[1:]):
        count = (following - step - 1) // interval
        if count > 0:
            print(
                f"Training removed {count} checkpoint{'s' * (count > 1)} between steps {step} "
                f"and {following} before the evaluation. {_KEEP_MORE}",
                file=sys.stderr,
            )
