"""The saver of a run that trains."""

from __future__ import annotations

from mtf_switch.model_dirs import restoring
from mtf_switch.runs.run import Run

# Of this many hours, one checkpoint is kept besides the last ones, as by Mesh TF.
HOURS_BETWEEN_KEPT = 2


def make(run: Run) -> restoring.SlotSkippingSaver:
    """Makes the saver of a run that trains, for the variables of the default graph."""
    return restoring.SlotSkippingSaver(
        run.model_dir,
        sharded=True,
        max_to_keep=run.settings.keep_checkpoint_max,
        keep_checkpoint_every_n_hours=HOURS_BETWEEN_KEPT,
        save_relative_paths=True,
    )
