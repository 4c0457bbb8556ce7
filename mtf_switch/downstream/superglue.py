"""`run_switch.py superglue`: the files that SuperGLUE's server accepts, with AX-b and AX-g.

There is one file of JSON lines for each task, in the form that super.gluebenchmark.com accepts:
`{"idx": 0, "label": "entailment"}`, and a nested form for MultiRC. The labels are those in
SuperGLUE's own data files.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import seqio
import tensorflow_datasets as tfds
from tqdm import tqdm

from mtf_switch.downstream import checkpoint_selection, decoding, evaluation_sets
from mtf_switch.downstream.evaluation_sets import EvaluationSet
from mtf_switch.lines.output_files import OutputFile
from mtf_switch.runs import data, registered_tasks
from mtf_switch.runs.run import Run

_BOOLEAN = ("false", "true")


@dataclasses.dataclass(frozen=True)
class TaskFile:
    """One file of a submission, and the task that it answers.

    Attributes:
      name: Name of the file without its extension.
      task: The task in T5's registry.
      labels: Label of each class id; () if the postprocessed answer is the label itself.
    """

    name: str
    task: str
    labels: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class WrittenFile:
    """The counts of one written file.

    Attributes:
      path: Path of the file.
      examples: Number of answered examples.
      invalid: Number of answers that are not a label. The server accepts only labels, so the
        task's first label replaces them.
    """

    path: str
    examples: int
    invalid: int


def list_task_files() -> list[TaskFile]:
    """Lists the files of a submission."""
    configs = tfds.text.super_glue.SuperGlue.builder_configs
    entailment = tuple(configs["rte"].label_classes)
    return [
        TaskFile("BoolQ", "super_glue_boolq_v102", _BOOLEAN),
        TaskFile("CB", "super_glue_cb_v102", tuple(configs["cb"].label_classes)),
        TaskFile("COPA", "super_glue_copa_v102", (0, 1)),
        TaskFile("MultiRC", "super_glue_multirc_v102", (0, 1)),
        TaskFile("ReCoRD", "super_glue_record_v102", ()),
        TaskFile("RTE", "super_glue_rte_v102", entailment),
        TaskFile("WiC", "super_glue_wic_v102", _BOOLEAN),
        TaskFile("WSC", "super_glue_wsc_v102_simple_eval", ("False", "True")),
        TaskFile("AX-b", "super_glue_axb_v102", entailment),
        TaskFile("AX-g", "super_glue_axg_v102", entailment),
    ]


def write_submission(
    run: Run, output_dir: str, step: int | None = None, overwrite: bool = False
) -> list[WrittenFile]:
    """Decodes the test sets with one checkpoint and writes the files of a submission.

    Args:
      run: The run, made for a SuperGLUE task from the parsed gin configuration.
      output_dir: Folder for the files, which is created if needed.
      step: Step of the checkpoint; None means the latest.
      overwrite: Whether to replace files that this command did not write.

    Raises:
      UserError: If a data set or the checkpoint is missing, or if there is such a file.
    """
    (checkpoint,) = checkpoint_selection.select_checkpoints(
        run.model_dir, "latest" if step is None else [step]
    )
    files = list_task_files()
    outputs = [_make_output(output_dir, file, overwrite) for file in files]
    if os.path.isdir(output_dir):
        for output in outputs:
            output.check()
    for file in files:
        registered_tasks.prepare_task(file.task, run.task_vocabulary)
        data.check_readable(file.task, "test", cached=False)
    tasks = [seqio.TaskRegistry.get(file.task) for file in files]
    sets = evaluation_sets.load_tasks(tasks, run.settings, "test")
    decoding.bind_decode_length(run.settings)
    decoded = decoding.decode(sets, run, checkpoint)
    total = sum(len(part.examples) for part in sets)
    texts = list(tqdm(decoded, "test sets", total, unit="example", leave=False, disable=None))
    os.makedirs(output_dir, exist_ok=True)
    return [
        _write_file(output, file, part, part_texts)
        for output, file, (part, part_texts) in zip(
            outputs, files, evaluation_sets.split_by_set(sets, texts)
        )
    ]


def _make_output(output_dir: str, file: TaskFile, overwrite: bool = False) -> OutputFile:
    path = os.path.join(output_dir, f"{file.name}.jsonl")
    return OutputFile(path, "superglue", overwrite)


def _write_file(
    output: OutputFile, file: TaskFile, examples: EvaluationSet, texts: Sequence[str]
) -> WrittenFile:
    predictions = examples.postprocess(texts)
    # MultiRC and ReCoRD are scored by groups, so their predictions are {"value": ..., ...}.
    predictions = [p["value"] if isinstance(p, dict) else p for p in predictions]
    invalid = 0
    labels = []
    for prediction in predictions:
        if not file.labels:
            labels.append(prediction)
        elif 0 <= prediction < len(file.labels):
            labels.append(file.labels[prediction])
        else:
            labels.append(file.labels[0])
            invalid += 1
    format_lines = _format_multirc if file.name == "MultiRC" else _format_labels
    lines = format_lines(examples.examples, labels)
    output.write_lines(json.dumps(line, ensure_ascii=False) for line in lines)
    return WrittenFile(output.path, len(labels), invalid)


def _format_labels(examples: Sequence[dict], labels: Sequence[Any]) -> list[dict]:
    """Formats one line for each question. ReCoRD's questions are its queries."""
    lines: dict[int, dict] = {}
    for example, label in zip(examples, labels):
        index = int(example["idx/query"] if "idx/query" in example else example["idx"])
        lines.setdefault(index, {"idx": index, "label": label})
    return [lines[index] for index in sorted(lines)]


def _format_multirc(examples: Sequence[dict], labels: Sequence[int]) -> list[dict]:
    """Formats one line for each paragraph, with its questions and their answers."""
    # Paragraph -> question -> answer -> label.
    paragraphs: dict = collections.defaultdict(lambda: collections.defaultdict(dict))
    for example, label in zip(examples, labels):
        paragraph, question, answer = (
            int(example[f"idx/{part}"]) for part in ("paragraph", "question", "answer")
        )
        paragraphs[paragraph][question][answer] = label
    return [
        {"idx": paragraph, "passage": {"questions": _format_questions(questions)}}
        for paragraph, questions in sorted(paragraphs.items())
    ]


def _format_questions(questions: dict[int, dict[int, int]]) -> list[dict]:
    return [
        {
            "idx": question,
            "answers": [{"idx": a, "label": label} for a, label in sorted(answers.items())],
        }
        for question, answers in sorted(questions.items())
    ]


def format_table(files: Sequence[WrittenFile]) -> str:
    """Formats the counts of the written files, for the screen."""
    lines = [f"{'file':32} {'answers':>8} {'no label':>9}"]
    lines += [f"{file.path:32} {file.examples:8,} {file.invalid:9,}" for file in files]
    if any(file.invalid for file in files):
        lines.append("Answers that are not a label were replaced by the task's first label.")
    return "\n".join(lines)
