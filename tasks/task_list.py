"""The list of `run_switch.py tasks`: all tasks and mixtures, and whether they are ready."""

from __future__ import annotations

import dataclasses
import fnmatch

import seqio
from t5.data import glue_utils
from t5.evaluation import eval_utils

from mtf_switch.errors import UserError
from tasks import (
    closed_book,
    embedded_tasks,
    entailment,
    multilingual,
    own_data,
    pretraining,
    tfds_data,
)

# Numbers of training examples, from the papers of the data sets or from T5's mixing rates.
PUBLISHED_SIZES = {
    **{name: int(size) for name, size in glue_utils.GLUE_WEIGHT_MAPPING.items() if size},
    **{name: int(size) for name, size in glue_utils.SUPER_GLUE_WEIGHT_MAPPING.items() if size},
    **{name: int(size) for name, size in entailment.ROUNDS.items()},
    **closed_book.SIZES,
    "cnn_dailymail_v002": 287_113,
    "squad_v010_allanswers": 87_599,
    "xsum": 204_045,
    "winogrande_xl": 40_398,
    "arc_easy": 2_251,
    "arc_challenge": 1_119,
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A task or mixture in the list.

    Attributes:
      name: The registered name.
      sizes: split -> number of examples, or None if it is unknown.
      metrics: Names of the metrics; empty for a mixture, whose tasks have their own.
      ready: "yes", possibly with a remark, or "no" and the reason.
      parts: Number of tasks in a mixture; 0 for a task.
      remark: More about the data, such as its number of characters.
    """

    name: str
    sizes: dict[str, int | None]
    metrics: list[str]
    ready: str
    parts: int = 0
    remark: str = ""


def list_tasks(pattern: str = "*") -> list[Entry]:
    """Returns all tasks and then all mixtures, sorted by name.

    Args:
      pattern: Shell pattern that the names must match.
    """
    states: dict[str, tfds_data.DatasetState] = {}
    tasks = {
        name: _make_task_entry(seqio.TaskRegistry.get(name), states)
        for name in sorted(seqio.TaskRegistry.names())
    }
    mixtures = [
        _make_mixture_entry(seqio.MixtureRegistry.get(name), tasks)
        for name in sorted(seqio.MixtureRegistry.names())
    ]
    entries = [*tasks.values(), *mixtures]
    return [entry for entry in entries if fnmatch.fnmatch(entry.name, pattern)]


def _make_task_entry(task: seqio.Task, states: dict[str, tfds_data.DatasetState]) -> Entry:
    """Returns the entry of a task.

    Args:
      task: The task.
      states: TFDS name -> state of the data sets inspected so far; new ones are added.
    """
    metrics = _find_metric_names(task)
    tfds_name = tfds_data.resolve_dataset_name(task)
    if tfds_name is not None:
        if tfds_name not in states:
            states[tfds_name] = tfds_data.inspect_dataset(tfds_name)
        return _make_tfds_entry(task, metrics, states[tfds_name])
    if isinstance(task.source, own_data.OwnSource):
        return _make_own_entry(task, metrics)
    prepared, ready, remark = True, "yes, made at first use", ""
    if isinstance(task.source, pretraining.CorpusSource):
        corpus = task.source.corpus
        prepared = corpus.is_prepared()
        if isinstance(corpus, multilingual.LanguageCorpus):
            ready = "yes, made at first use" if corpus.has_catalogues() else "no: install it"
            remark = corpus.describe() if prepared else ""
    elif isinstance(task.source, embedded_tasks.ExamplesSource):
        prepared = embedded_tasks.is_prepared()
    sizes = {
        split: task.num_input_examples(split) if prepared else None for split in task.splits
    }
    return Entry(task.name, sizes, metrics, "yes" if prepared else ready, remark=remark)


def _make_own_entry(task: seqio.Task, metrics: list[str]) -> Entry:
    try:
        sizes = {split: task.num_input_examples(split) for split in task.splits}
    except UserError:
        return Entry(task.name, {}, metrics, "no: a file is not there")
    return Entry(task.name, sizes, metrics, "yes")


def _make_tfds_entry(
    task: seqio.Task, metrics: list[str], state: tfds_data.DatasetState
) -> Entry:
    if state.readiness is not tfds_data.Readiness.READY:
        published = PUBLISHED_SIZES.get(task.name)
        sizes = {"train": published} if published else {}
        return Entry(task.name, sizes, metrics, state.readiness.value)
    tfds_data.drop_stale_builder(task)
    sizes = {split: task.num_input_examples(split) for split in task.splits}
    return Entry(task.name, sizes, metrics, "yes")


def _make_mixture_entry(mixture: seqio.Mixture, tasks: dict[str, Entry]) -> Entry:
    parts = [tasks[task.name] for task in seqio.get_subtasks(mixture)]
    ready = sum(part.ready.startswith("yes") for part in parts)
    return Entry(
        mixture.name,
        {},
        [],
        "yes" if ready == len(parts) else f"no: {ready} of {len(parts)} are",
        len(parts),
    )


def _find_metric_names(task: seqio.Task) -> list[str]:
    """Returns T5's names for a task's metrics, or the names of their functions."""
    tags = [tag.split("/") for tag in eval_utils.METRIC_NAMES]
    t5_names = [tag[1] for tag in tags if len(tag) == 2 and tag[0] == task.name]
    return t5_names or [getattr(metric, "__name__", str(metric)) for metric in task.metric_fns]


def format_table(entries: list[Entry]) -> str:
    """Returns the entries as a text table."""
    width = max(len(entry.name) for entry in entries)
    lines = [f"{'task':{width}}  {'ready':22}  {'metrics':29}  examples"]
    for entry in entries:
        splits = ", ".join(
            split if size is None else f"{split} {size:,}"
            for split, size in sorted(entry.sizes.items())
        )
        content = f"mixture of {entry.parts}" if entry.parts else splits or "?"
        content += f"; {entry.remark}" if entry.remark else ""
        metrics = ", ".join(entry.metrics) or ("" if entry.parts else "none")
        lines.append(f"{entry.name:{width}}  {entry.ready:22}  {metrics:29}  {content}")
    lines.append(
        "Data that is not prepared is listed with its published size, if that is known. A task "
        "without metrics is evaluated by its negative log perplexity."
    )
    return "\n".join(lines)
