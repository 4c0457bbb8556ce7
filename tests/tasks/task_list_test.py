"""`run_switch.py tasks`: every task with its sizes, its metrics and its state."""

from __future__ import annotations

from pathlib import Path

import seqio
import tfds_examples
from tiny_run import TinyRun


def test_tasks_lists_sizes_metrics_splits_and_readiness(tiny: TinyRun, tfds_dir: Path) -> None:
    with tfds_examples.divide_closed_book():
        outcome = tiny.command("tasks", "*", f"--data_dir={tfds_dir}")
    assert outcome.code == 0, outcome.err
    lines = {line.split()[0]: line for line in outcome.out.splitlines()}
    assert lines["xsum"].split()[1:] == [
        *["yes", "rouge"],
        *["test", "1,", "train", "1,", "validation", "1"],
    ]
    assert "matthews_corrcoef" in lines["glue_cola_v002"]
    assert "no: prepare it" in lines["wmt14_ende_v003"]
    assert "no: not in this TFDS" in lines["c4_realnewslike_v020_unsupervised"]
    assert "no: 0 of 107 are" in lines["mc4"]
    assert "mixture of 3" in lines["embedded_downstream"]
    names = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
    assert names <= set(lines)


def test_published_sizes_stand_where_nothing_is_prepared(tiny: TinyRun, tmp_path: Path) -> None:
    outcome = tiny.command("tasks", "winogrande*", f"--data_dir={tmp_path}")
    assert "no: prepare it" in outcome.out
    assert "train 40,398" in outcome.out
