"""`run_switch.py superglue`: the files that SuperGLUE's server takes, AX-b and AX-g included.

One file of JSON lines for each task, as on super.gluebenchmark.com: `{"idx": 0, "label":
"entailment"}`, and a nested form for MultiRC. The labels are those of SuperGLUE's own files.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import seqio
import tensorflow_datasets as tfds
from tqdm import tqdm

from mtf_switch import whole_file
from mtf_switch.config import run_settings
from mtf_switch.downstream import task_metrics
from mtf_switch.downstream.task_metrics import EvaluationSet
from mtf_switch.errors import UserError
from mtf_switch.runs import checkpoints, data

_BOOLEAN = ("false", "true")


@dataclasses.dataclass(frozen=True)
class Submission:
    """How a task's answers become a file.

    Attributes:
      file: name without its ending.
      task: of T5's registry.
      labels: by class id; () where the answer is the label.
    """

    file: str
    task: str
    labels: tuple[Any, ...]


def submissions() -> list[Submission]:
    """All files of a submission."""
    configs = tfds.text.super_glue.SuperGlue.builder_configs
    two_way = tuple(configs["rte"].label_classes)
    return [
        Submission("BoolQ", "super_glue_boolq_v102", _BOOLEAN),
        Submission("CB", "super_glue_cb_v102", tuple(configs["cb"].label_classes)),
        Submission("COPA", "super_glue_copa_v102", (0, 1)),
        Submission("MultiRC", "super_glue_multirc_v102", (0, 1)),
        Submission("ReCoRD", "super_glue_record_v102", ()),
        Submission("RTE", "super_glue_rte_v102", two_way),
        Submission("WiC", "super_glue_wic_v102", _BOOLEAN),
        Submission("WSC", "super_glue_wsc_v102_simple_eval", ("False", "True")),
        Submission("AX-b", "super_glue_axb_v102", two_way),
        Submission("AX-g", "super_glue_axg_v102", two_way),
    ]


@dataclasses.dataclass(frozen=True)
class Written:
    """One file of a submission.

    Attributes:
      file: its path.
      examples: answered.
      invalid: answers that are no label; they were given the task's first one, as the server
        takes labels only.
    """

    file: str
    examples: int
    invalid: int


def write(
    model_dir: str, output_dir: str, step: int | None = None, cluster: Any | None = None
) -> list[Written]:
    """Decodes the test sets with one checkpoint and writes all files.

    Args:
      model_dir: of a run whose configuration is parsed.
      output_dir: gets the files; made if it is not there.
      step: of the checkpoint; None is the latest.
      cluster: a TPUClusterResolver; None decodes on this machine.

    Raises:
      UserError: if a data set or the checkpoint is not there.
    """
    settings = run_settings.from_gin()
    files = submissions()
    for each in files:
        vocabulary = data.prepare(each.task)
        data.check_readable(each.task, "test", cached=False)
    tasks = [seqio.TaskRegistry.get(each.task) for each in files]
    sets = task_metrics.load_tasks(tasks, settings, "test")
    task_metrics.bind_decode_length(settings)
    checkpoint = _checkpoint(model_dir, step)
    decoded = task_metrics.answers(sets, settings, vocabulary, model_dir, checkpoint, cluster)
    total = sum(len(part.examples) for part in sets)
    texts = list(tqdm(decoded, "test sets", total, unit="example", leave=False, disable=None))
    os.makedirs(output_dir, exist_ok=True)
    written, start = [], 0
    for each, part in zip(files, sets):
        mine = texts[start : start + len(part.examples)]
        start += len(mine)
        written.append(_write_file(output_dir, each, part, mine))
    return written


def _checkpoint(model_dir: str, step: int | None) -> str:
    if step is None:
        return checkpoints.find(model_dir)
    for path in checkpoints.all_of(model_dir):
        if checkpoints.step_of(path) == step:
            return path
    raise UserError(f"{model_dir} has no checkpoint of step {step}.")


def _write_file(
    output_dir: str, each: Submission, part: EvaluationSet, texts: Sequence[str]
) -> Written:
    predictions = [p["value"] if isinstance(p, dict) else p for p in part.postprocessed(texts)]
    valid = [not each.labels or 0 <= p < len(each.labels) for p in predictions]
    labels = [
        each.labels[p if ok else 0] if each.labels else p for p, ok in zip(predictions, valid)
    ]
    lines: Callable = _multirc_lines if each.file == "MultiRC" else _lines
    path = os.path.join(output_dir, f"{each.file}.jsonl")
    with whole_file.open_for_writing(path) as file:
        for line in lines(part.examples, labels):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return Written(path, len(labels), valid.count(False))


def _lines(examples: Sequence[dict], labels: Sequence[Any]) -> list[dict]:
    """One line for each question; ReCoRD's questions are its queries."""
    found = {}
    for example, label in zip(examples, labels):
        index = int(example["idx/query"] if "idx/query" in example else example["idx"])
        found.setdefault(index, {"idx": index, "label": label})
    return [found[index] for index in sorted(found)]


def _multirc_lines(examples: Sequence[dict], labels: Sequence[int]) -> list[dict]:
    """A line for each paragraph, with its questions, with their answers."""
    paragraphs: dict = collections.defaultdict(lambda: collections.defaultdict(dict))
    for example, label in zip(examples, labels):
        paragraph, question, answer = (
            int(example[f"idx/{part}"]) for part in ("paragraph", "question", "answer")
        )
        paragraphs[paragraph][question][answer] = label
    return [
        {
            "idx": paragraph,
            "passage": {
                "questions": [
                    {
                        "idx": question,
                        "answers": [
                            {"idx": answer, "label": of_question[answer]}
                            for answer in sorted(of_question)
                        ],
                    }
                    for question, of_question in sorted(questions.items())
                ]
            },
        }
        for paragraph, questions in sorted(paragraphs.items())
    ]


def table(written: Sequence[Written]) -> str:
    """What was written, as text for the screen."""
    lines = [f"{'file':32} {'answers':>8} {'no label':>9}"]
    lines += [f"{w.file:32} {w.examples:8,} {w.invalid:9,}" for w in written]
    if any(w.invalid for w in written):
        lines.append("Answers that are no label were given the first one of the task.")
    return "\n".join(lines)
