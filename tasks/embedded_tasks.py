"""Downstream tasks with real labels, made from the docstrings of the embedded text.

    embedded_package     the package that a docstring belongs to          accuracy
    embedded_summary     the first paragraph of a docstring from the rest  ROUGE
    embedded_module      closed book: the module that defines a name       exact match, F1
    embedded_downstream  the mixture of the three in equal parts

A docstring is in a validation split if the pre-training corpus `embedded_text` keeps it out of
training, and if it shares no 13-gram of words with any docstring that is used for training, in
pre-training or in these tasks (the usual test for contamination). No name in a validation
question occurs in a training question.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import seqio
import tensorflow as tf
from t5.data import postprocessors as t5_postprocessors
from t5.evaluation import metrics

from tasks import pretraining, text_cache, text_to_text
from tasks.docstrings import Docstring, Docstrings
from tasks.document_split import SPLITS, document_digest, is_for_validation
from tasks.one_shard_source import OneShardSource

TaskName = Literal["embedded_package", "embedded_summary", "embedded_module"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
PACKAGE, SUMMARY, MODULE = TASKS
MIXTURE = "embedded_downstream"

# Increase this whenever the same docstrings would make different examples.
EXAMPLES_VERSION = 1
NGRAM_WORDS = 13
# Classes of `embedded_package`: the packages with the most docstrings.
PACKAGES = 12

_FIRST_PARAGRAPH = re.compile(r"\A(.+?)(?:\n\s*\n|\Z)", re.DOTALL)
_NAME = re.compile(r"(?:[A-Z]\w*|[a-z]\w*_\w+)\Z")


@dataclasses.dataclass(frozen=True)
class Example:
    """A question and its answers as text.

    Attributes:
      inputs: The question.
      targets: The answer to learn.
      answers: All correct answers.
    """

    inputs: str
    targets: str
    answers: tuple[str, ...]


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers the three tasks and their mixture.

    Args:
      vocabulary: Their vocabulary, or None for that of `embedded_text`.
    """
    vocabulary = vocabulary or pretraining.CorpusVocabulary(pretraining.embedded_text())
    features = text_to_text.make_features(vocabulary)
    for name, metric, postprocess_fn in (
        (PACKAGE, metrics.accuracy, None),
        (SUMMARY, metrics.rouge, None),
        (MODULE, metrics.squad, t5_postprocessors.qa),
    ):
        # The examples are text already, so no preprocessor formats them.
        text_to_text.add_task(
            name, ExamplesSource(name), [], features, [metric], postprocess_fn
        )
    text_to_text.add_mixture(MIXTURE, dict.fromkeys(TASKS, 1.0))


def prepare_examples(name: str) -> None:
    """Makes the examples of these tasks, if the named task or mixture contains one of them.

    Args:
      name: A registered task or mixture.
    """
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
        if isinstance(task.source, ExamplesSource):
            ensure_examples_file()


def make_examples(docstrings: Iterable[Docstring]) -> dict[str, dict[str, list[Example]]]:
    """Makes the examples of all tasks and splits.

    Args:
      docstrings: All docstrings in a fixed order, including repeats.

    Returns:
      task -> split -> examples.
    """
    distinct: dict[bytes, Docstring] = {}
    packages = collections.defaultdict(set)
    for docstring in docstrings:
        digest = document_digest(docstring.text)
        distinct.setdefault(digest, docstring)
        packages[digest].add(docstring.package)
    trained = {d: distinct[d] for d in sorted(distinct) if not is_for_validation(d)}
    held_out = {d: distinct[d] for d in sorted(distinct) if is_for_validation(d)}
    seen = _find_shared_ngrams(held_out.values(), trained.values())
    # A text that occurs in several packages has no unique label, so it is excluded.
    train = [text for digest, text in trained.items() if len(packages[digest]) == 1]
    clean = [
        text
        for digest, text in held_out.items()
        if len(packages[digest]) == 1 and seen.isdisjoint(word_ngrams(text.text))
    ]
    return {
        PACKAGE: _make_package_examples(train, clean),
        SUMMARY: {
            split: list(_make_summary_examples(part))
            for split, part in zip(SPLITS, (train, clean))
        },
        MODULE: _make_module_examples(train, clean),
    }


def _find_shared_ngrams(
    held_out: Iterable[Docstring], trained: Iterable[Docstring]
) -> set[tuple[str, ...]]:
    """Returns the 13-grams that occur both in `held_out` and in `trained`."""
    validation = {ngram for docstring in held_out for ngram in word_ngrams(docstring.text)}
    return {
        ngram
        for docstring in trained
        for ngram in word_ngrams(docstring.text)
        if ngram in validation
    }


def word_ngrams(text: str) -> Iterator[tuple[str, ...]]:
    """Yields the 13-grams of a text: lower-case words without punctuation.

    A text with fewer words gives one shorter n-gram.
    """
    words = re.findall(r"\w+", text.lower())
    for start in range(max(len(words) - NGRAM_WORDS, 0) + 1):
        yield tuple(words[start : start + NGRAM_WORDS])


def _make_package_examples(
    train: Sequence[Docstring], validation: Sequence[Docstring]
) -> dict[str, list[Example]]:
    counts = collections.Counter(docstring.package for docstring in train)
    # Ties are broken by name, so that every machine chooses the same packages.
    known = sorted(counts, key=lambda package: (-counts[package], package))[:PACKAGES]
    return {
        split: [
            Example(f"package: {_join_lines(d.text)}", d.package, (d.package,))
            for d in part
            if d.package in known
        ]
        for split, part in zip(SPLITS, (train, validation))
    }


def _make_summary_examples(docstrings: Iterable[Docstring]) -> Iterator[Example]:
    for docstring in docstrings:
        first = _FIRST_PARAGRAPH.match(docstring.text)
        if not first:
            continue
        summary, rest = _join_lines(first[1]), _join_lines(docstring.text[first.end() :])
        if 3 <= len(summary.split()) <= 25 and len(rest.split()) >= 20:
            yield Example(f"summarize: {rest}", summary, (summary,))


def _make_module_examples(
    train: Sequence[Docstring], validation: Sequence[Docstring]
) -> dict[str, list[Example]]:
    questions = {}
    for split, part in zip(SPLITS, (train, validation)):
        modules = collections.defaultdict(set)
        for docstring in part:
            # Only classes and functions; a name of one lower-case word is too vague.
            if "." not in docstring.name and _NAME.match(docstring.name):
                modules[docstring.name].add(docstring.module)
        questions[split] = modules
    trained = questions["train"].keys()
    questions["validation"] = {
        name: modules
        for name, modules in questions["validation"].items()
        if name not in trained
    }
    return {
        split: [
            Example(f"module question: {name}", *_make_module_answers(modules))
            for name, modules in sorted(modules_by_name.items())
        ]
        for split, modules_by_name in questions.items()
    }


def _make_module_answers(modules: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Returns the answer to learn and all correct answers.

    The parts of a module's name become words, so that F1 compares them one by one.
    """
    answers = tuple(module.replace(".", " ") for module in sorted(modules))
    return answers[0], answers


def _join_lines(text: str) -> str:
    return " ".join(text.split())


def ensure_examples_file() -> Path:
    """Returns the file with all examples, and makes it if it is missing or damaged.

    Raises:
      UserError: If the cache cannot be written.
    """
    file = _make_path()
    if not _is_complete(file):
        text_cache.print_status(f"Preparing the embedded downstream tasks (once) in {file}")
        content = {
            task: {
                split: [dataclasses.astuple(e) for e in part]
                for split, part in by_split.items()
            }
            for task, by_split in make_examples(Docstrings().docstrings()).items()
        }
        with text_cache.explain_errors("The embedded tasks", file):
            file.parent.mkdir(parents=True, exist_ok=True)
            text_cache.write_json(file, content)
    return file


def is_prepared() -> bool:
    """Returns whether the examples are in the cache."""
    return _is_complete(_make_path())


def _make_path() -> Path:
    identity = {"examples": EXAMPLES_VERSION, "source": Docstrings().identity()}
    name = f"embedded_tasks-{text_cache.cache_key(identity)}.json"
    return text_cache.cache_directory() / name


def _is_complete(file: Path) -> bool:
    content = text_cache.read_json(file)
    parts = [text_cache.get_object(content, task) for task in TASKS]
    return all(set(part) == set(SPLITS) for part in parts) and all(
        isinstance(examples, list) and all(map(_is_example, examples))
        for part in parts
        for examples in part.values()
    )


def _is_example(value: Any) -> bool:
    """Whether a value of a JSON file is [inputs, targets, list of answers]."""
    if not isinstance(value, list) or [type(part) for part in value] != [str, str, list]:
        return False
    return all(isinstance(answer, str) for answer in value[2])


@functools.lru_cache(maxsize=1)
def _read(file: Path) -> dict[str, dict[str, list[Example]]]:
    content = json.loads(file.read_text(encoding="utf-8"))
    return {
        task: {
            split: [
                Example(inputs, targets, tuple(answers)) for inputs, targets, answers in part
            ]
            for split, part in by_split.items()
        }
        for task, by_split in content.items()
    }


class ExamplesSource(OneShardSource):
    """The examples of one task, which are made at first use."""

    def __init__(self, task: TaskName):
        super().__init__()
        self.task = task

    def examples(self, split: str) -> list[Example]:
        """Returns all examples of a split."""
        return _read(ensure_examples_file())[self.task][split]

    def num_input_examples(self, split: str) -> int:
        """Returns the number of examples in a split."""
        return len(self.examples(split))

    def read_examples(self, split: str, shuffle: bool, seed: int | None) -> tf.data.Dataset:
        """Returns "inputs", "targets" and "answers"; `shuffle` orders them by the seed."""
        examples = self.examples(split)
        columns = {
            "inputs": tf.constant([e.inputs for e in examples]),
            "targets": tf.constant([e.targets for e in examples]),
            # The answers are joined here and split below, because ragged columns are slow.
            "answers": tf.constant(["\n".join(e.answers) for e in examples]),
        }
        dataset = tf.data.Dataset.from_tensor_slices(columns)
        if shuffle:
            dataset = dataset.shuffle(max(len(examples), 1), seed=seed)
        return dataset.map(
            lambda example: {**example, "answers": tf.strings.split(example["answers"], "\n")}
        )
