"""Downstream tasks with real labels from the embedded text, with no download.

    embedded_package   which package a docstring is of            accuracy
    embedded_summary   a docstring's first sentence from the rest  ROUGE
    embedded_module    closed book: which module defines a name    exact match, F1
    embedded_downstream  the three together, each drawn equally often

A docstring is for validation if the pre-training corpus `embedded_text` keeps it from training
and it shares no run of 13 words with any docstring that is trained on, in pre-training or in
these tasks (the usual test of contamination). Names that are asked for in validation occur in
no question of training.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import seqio
import tensorflow as tf
from t5.data import postprocessors as t5_postprocessors
from t5.evaluation import metrics

from mtf_switch.errors import UserError
from tasks import pretraining, text_to_text
from tasks.docstrings import Docstring, Docstrings
from tasks.text_corpus import (
    SPLITS,
    cache_directory,
    digest_of,
    hash_of,
    is_for_validation,
    read_json,
    replace_file,
    say,
    write_json,
)

PACKAGE, SUMMARY, MODULE = "embedded_package", "embedded_summary", "embedded_module"
MIXTURE = "embedded_downstream"

# Raise this whenever the same docstrings would make other examples.
VERSION = 1
RUN_OF_WORDS = 13
# Packages to choose from: those with the most docstrings.
PACKAGES = 12

_FIRST_PARAGRAPH = re.compile(r"\A(.+?)(?:\n\s*\n|\Z)", re.DOTALL)
_NAME = re.compile(r"(?:[A-Z]\w*|[a-z]\w*_\w+)\Z")


@dataclasses.dataclass(frozen=True)
class Example:
    """A question as text.

    Attributes:
      inputs: of the model.
      targets: the answer to learn.
      answers: every right answer.
    """

    inputs: str
    targets: str
    answers: tuple[str, ...]


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers the three tasks and their mixture.

    Args:
      vocabulary: None is that of `embedded_text`.
    """
    vocabulary = vocabulary or pretraining.CorpusVocabulary(pretraining.embedded_text())
    features = text_to_text.features(vocabulary)
    text_to_text.add(
        PACKAGE, ExamplesSource(PACKAGE), _as_they_are, features, [metrics.accuracy]
    )
    text_to_text.add(SUMMARY, ExamplesSource(SUMMARY), _as_they_are, features, [metrics.rouge])
    text_to_text.add(
        MODULE,
        ExamplesSource(MODULE),
        _as_they_are,
        features,
        [metrics.squad],
        t5_postprocessors.qa,
    )
    text_to_text.add_mixture(MIXTURE, dict.fromkeys((PACKAGE, SUMMARY, MODULE), 1.0))


def prepare(name: str) -> None:
    """Makes the examples of a task or mixture, if it is one of these."""
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
        if isinstance(task.source, ExamplesSource):
            prepared_file()


def make_examples(docstrings: Iterable[Docstring]) -> dict[str, dict[str, list[Example]]]:
    """Makes the examples of every task and split.

    Args:
      docstrings: in a fixed order; repeats included.

    Returns:
      task -> split -> examples.
    """
    distinct: dict[bytes, Docstring] = {}
    packages = collections.defaultdict(set)
    for docstring in docstrings:
        digest = digest_of(docstring.text)
        distinct.setdefault(digest, docstring)
        packages[digest].add(docstring.package)
    trained = {d: distinct[d] for d in sorted(distinct) if not is_for_validation(d)}
    held_out = {d: distinct[d] for d in sorted(distinct) if is_for_validation(d)}
    seen = _shared_runs(held_out.values(), trained.values())
    # A text that several packages have: whose is it?
    train = [text for digest, text in trained.items() if len(packages[digest]) == 1]
    clean = [
        text
        for digest, text in held_out.items()
        if len(packages[digest]) == 1 and seen.isdisjoint(runs_of_words(text.text))
    ]
    return {
        PACKAGE: _package_examples(train, clean),
        SUMMARY: {
            split: list(_summary_examples(part)) for split, part in zip(SPLITS, (train, clean))
        },
        MODULE: _module_examples(train, clean),
    }


def _shared_runs(
    held_out: Iterable[Docstring], trained: Iterable[Docstring]
) -> set[tuple[str, ...]]:
    """The runs of words of `held_out` that stand in a docstring of `trained` too."""
    asked = {run for docstring in held_out for run in runs_of_words(docstring.text)}
    return {
        run for docstring in trained for run in runs_of_words(docstring.text) if run in asked
    }


def runs_of_words(text: str) -> Iterator[tuple[str, ...]]:
    """Every run of 13 words, lower case without punctuation; a shorter text is one."""
    words = re.findall(r"\w+", text.lower())
    for start in range(max(len(words) - RUN_OF_WORDS, 0) + 1):
        yield tuple(words[start : start + RUN_OF_WORDS])


def _package_examples(
    train: Sequence[Docstring], validation: Sequence[Docstring]
) -> dict[str, list[Example]]:
    counts = collections.Counter(docstring.package for docstring in train)
    # By count, then name: the same on every machine.
    known = sorted(counts, key=lambda package: (-counts[package], package))[:PACKAGES]
    return {
        split: [
            Example(f"package: {_one_line(d.text)}", d.package, (d.package,))
            for d in part
            if d.package in known
        ]
        for split, part in zip(SPLITS, (train, validation))
    }


def _summary_examples(docstrings: Iterable[Docstring]) -> Iterator[Example]:
    for docstring in docstrings:
        first = _FIRST_PARAGRAPH.match(docstring.text)
        if not first:
            continue
        summary, rest = _one_line(first[1]), _one_line(docstring.text[first.end() :])
        if 3 <= len(summary.split()) <= 25 and len(rest.split()) >= 20:
            yield Example(f"summarize: {rest}", summary, (summary,))


def _module_examples(
    train: Sequence[Docstring], validation: Sequence[Docstring]
) -> dict[str, list[Example]]:
    questions = {}
    for split, part in zip(SPLITS, (train, validation)):
        modules = collections.defaultdict(set)
        for docstring in part:
            # Classes and functions of a module; one word says too little.
            if "." not in docstring.name and _NAME.match(docstring.name):
                modules[docstring.name].add(docstring.module)
        questions[split] = modules
    asked = questions["train"].keys()
    questions["validation"] = {
        name: modules for name, modules in questions["validation"].items() if name not in asked
    }
    return {
        split: [
            Example(f"module question: {name}", *_module_answers(modules))
            for name, modules in sorted(of_split.items())
        ]
        for split, of_split in questions.items()
    }


def _module_answers(modules: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """The answer to learn and all right ones, in words, so that F1 sees their parts."""
    in_words = tuple(module.replace(".", " ") for module in sorted(modules))
    return in_words[0], in_words


def _one_line(text: str) -> str:
    return " ".join(text.split())


def prepared_file() -> Path:
    """The file with all examples, made if it is not there or damaged.

    Raises:
      UserError: if the cache cannot be written.
    """
    source = Docstrings()
    identity = {"examples": VERSION, "source": source.identity()}
    file = cache_directory() / f"embedded_tasks-{hash_of(identity)}.json"
    if not _is_complete(file):
        say(f"Preparing the embedded downstream tasks (once) in {file}")
        made = make_examples(source.docstrings())
        content = {
            task: {split: [dataclasses.astuple(e) for e in part] for split, part in of.items()}
            for task, of in made.items()
        }
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, lambda temporary: write_json(temporary, content))
        except OSError as error:
            raise UserError(
                f"The embedded tasks cannot be kept in {file.parent}: {error}. Set the "
                "environment variable MTF_SWITCH_CACHE to a folder that you can write."
            ) from error
    return file


def is_prepared() -> bool:
    """Whether the examples are in the cache."""
    identity = {"examples": VERSION, "source": Docstrings().identity()}
    return _is_complete(cache_directory() / f"embedded_tasks-{hash_of(identity)}.json")


def _is_complete(file: Path) -> bool:
    content = read_json(file)
    return all(set(content.get(task, {})) == set(SPLITS) for task in (PACKAGE, SUMMARY, MODULE))


@functools.lru_cache(maxsize=1)
def _read(file: Path) -> dict[str, dict[str, list[Example]]]:
    content = json.loads(file.read_text(encoding="utf-8"))
    return {
        task: {
            split: [Example(inputs, targets, tuple(all_)) for inputs, targets, all_ in part]
            for split, part in of.items()
        }
        for task, of in content.items()
    }


class ExamplesSource(seqio.DataSource):
    """The examples of one task, made at first use."""

    def __init__(self, task: str):
        super().__init__(splits=SPLITS)
        self.task = task

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """No: one file."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """One shard."""
        return [split]

    def examples(self, split: str) -> list[Example]:
        """All examples of a split."""
        return _read(prepared_file())[self.task][split]

    def num_input_examples(self, split: str) -> int:
        """How many examples a split has."""
        return len(self.examples(split))

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused,
    ) -> tf.data.Dataset:
        """Returns "inputs", "targets" and "answers", in another order for each seed."""
        if shard_info and shard_info.num_shards > 1:
            raise ValueError("The embedded tasks have one shard; use tf.data.Dataset.shard.")
        examples = self.examples(split)
        columns = {
            "inputs": tf.constant([e.inputs for e in examples]),
            "targets": tf.constant([e.targets for e in examples]),
            # Ragged columns take long to make.
            "answers": tf.constant(["\n".join(e.answers) for e in examples]),
        }
        dataset = tf.data.Dataset.from_tensor_slices(columns)
        if shuffle:
            dataset = dataset.shuffle(max(len(examples), 1), seed=seed)
        return dataset.map(
            lambda example: {**example, "answers": tf.strings.split(example["answers"], "\n")}
        )


def _as_they_are(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset
