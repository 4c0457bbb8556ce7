"""The saver of a run that trains, and the weights that a new run starts from."""

from __future__ import annotations

from mtf_switch.model_dirs import initial_weights, restoring
from mtf_switch.runs.run import Run


def make(run: Run) -> restoring.SlotSkippingSaver:
    """Makes the saver of a run that trains, for the variables of the default graph."""
    return restoring.SlotSkippingSaver(
        run.model_dir,
        sharded=True,
        max_to_keep=run.settings.keep_checkpoint_max,
        keep_checkpoint_every_n_hours=2,
        save_relative_paths=True,
    )


def load_initial_weights(run: Run) -> None:
    """Makes the variables of a new run start from `utils.run.init_checkpoint`, if it is bound.

    Raises:
      UserError: If the checkpoint is of another model.
    """
    initial_weights.load_if_new(run.settings.init_checkpoint, run.model_dir)
