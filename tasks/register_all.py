"""Registers every task by being imported: for seqio's cache job, which takes modules.

seqio_cache_tasks --module_import=mtf_switch,tasks.register_all --tasks=... ; docs/finetuning.md
"""

from __future__ import annotations

import seqio

import tasks
from tasks import tfds_data

tasks.register()
for _name in list(seqio.TaskRegistry.names()):
    tfds_data.dataset_name(seqio.TaskRegistry.get(_name))
