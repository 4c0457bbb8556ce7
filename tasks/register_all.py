"""Registers all tasks when it is imported, for seqio's cache job, which takes module names.

    seqio_cache_tasks --module_import=mtf_switch --module_import=tasks.register_all --tasks=...

See "C4 and mC4" in docs/finetuning.md.
"""

from __future__ import annotations

import seqio

import tasks
from tasks import tfds_data

tasks.register()
for _name in list(seqio.TaskRegistry.names()):
    tfds_data.resolve_dataset_name(seqio.TaskRegistry.get(_name))
