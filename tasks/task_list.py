"""`run_switch.py tasks`: every task and mixture, and whether it can be used on this machine."""

from __future__ import annotations

import dataclasses
import fnmatch

import seqio
from t5.data import glue_utils
from t5.evaluation import eval_utils

from tasks import closed_book, embedded_tasks, entailment, pretraining, tfds_data

# Training examples, as the data sets' papers or T5's mixing rates state them.
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
    """A task or mixture.

    Attributes:
      name: of the registry.
      sizes: split -> examples; None where nobody has counted.
      metrics: names of its metrics; none for a mixture, whose tasks have them.
      ready: "yes", or what is missing.
      parts: tasks in a mixture; 0 for a task.
    """

    name: str
    sizes: dict[str, int | None]
    metrics: list[str]
    ready: str
    parts: int = 0


def list_tasks(pattern: str = "*") -> list[Entry]:
    """All tasks, then all mixtures, by name.

    Args:
      pattern: of names, as in a shell.
    """
    states: dict[str, tfds_data.State] = {}
    tasks = {
        name: _task(seqio.TaskRegistry.get(name), states)
        for name in sorted(seqio.TaskRegistry.names())
    }
    mixtures = [
        _mixture(seqio.MixtureRegistry.get(name), tasks)
        for name in sorted(seqio.MixtureRegistry.names())
    ]
    return [e for e in [*tasks.values(), *mixtures] if fnmatch.fnmatch(e.name, pattern)]


def _task(task: seqio.Task, states: dict[str, tfds_data.State]) -> Entry:
    metrics = _metric_names(task)
    tfds_name = tfds_data.dataset_name(task)
    if tfds_name is not None:
        if tfds_name not in states:
            states[tfds_name] = tfds_data.inspect_dataset(tfds_name)
        return _tfds_entry(task, metrics, states[tfds_name])
    prepared = True
    if isinstance(task.source, pretraining.CorpusSource):
        prepared = task.source.corpus.is_prepared()
    elif isinstance(task.source, embedded_tasks.ExamplesSource):
        prepared = embedded_tasks.is_prepared()
    sizes = {
        split: task.num_input_examples(split) if prepared else None for split in task.splits
    }
    return Entry(task.name, sizes, metrics, "yes" if prepared else "yes, made at first use")


def _tfds_entry(task: seqio.Task, metrics: list[str], state: tfds_data.State) -> Entry:
    if state.readiness is not tfds_data.Readiness.READY:
        published = PUBLISHED_SIZES.get(task.name)
        sizes = {"train": published} if published else {}
        return Entry(task.name, sizes, metrics, state.readiness.value)
    tfds_data.forget_unprepared(task)
    sizes = {split: task.num_input_examples(split) for split in task.splits}
    return Entry(task.name, sizes, metrics, "yes")


def _mixture(mixture: seqio.Mixture, tasks: dict[str, Entry]) -> Entry:
    parts = [tasks[task.name] for task in seqio.get_subtasks(mixture)]
    ready = sum(part.ready.startswith("yes") for part in parts)
    return Entry(
        mixture.name,
        {},
        [],
        "yes" if ready == len(parts) else f"no: {ready} of {len(parts)} are",
        len(parts),
    )


def _metric_names(task: seqio.Task) -> list[str]:
    """What a task's metrics are called in results, as far as T5 says; else their functions."""
    tags = [tag.split("/") for tag in eval_utils.METRIC_NAMES]
    of_t5 = [
        metric for name, metric in (tag for tag in tags if len(tag) == 2) if name == task.name
    ]
    return of_t5 or [getattr(metric, "__name__", str(metric)) for metric in task.metric_fns]


def format_table(found: list[Entry]) -> str:
    """The entries as text for the screen."""
    width = max(len(entry.name) for entry in found)
    lines = [f"{'task':{width}}  {'ready':22}  {'metrics':29}  examples"]
    for entry in found:
        splits = ", ".join(
            split if size is None else f"{split} {size:,}"
            for split, size in sorted(entry.sizes.items())
        )
        content = f"mixture of {entry.parts}" if entry.parts else splits or "?"
        metrics = ", ".join(entry.metrics) or ("" if entry.parts else "none")
        lines.append(f"{entry.name:{width}}  {entry.ready:22}  {metrics:29}  {content}")
    lines.append(
        "Sizes of what is not prepared are the published ones, where known. A task without "
        "metrics is evaluated by its negative log perplexity."
    )
    return "\n".join(lines)
