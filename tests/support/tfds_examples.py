"""Hand-written examples of every TFDS data set of the paper; golden_texts.py has their text.

TFDS's own builders encode and write them, so the folder is what `prepare` leaves, only smaller.
All text is made up.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import tensorflow_datasets as tfds

from tasks import closed_book

TRAIN_AND_TEST = ("train", "validation", "test")


def _in_all(*examples: dict, splits: tuple[str, ...] = TRAIN_AND_TEST) -> dict:
    return {split: list(examples) for split in splits}


def _pair(first: str, second: str, labels: tuple = (0, 1)) -> tuple[dict, dict]:
    """Returns two examples of sentence pairs with the given feature names."""
    return (
        {first: "The cat sat on the mat.", second: "A cat sat.", "idx": 0, "label": labels[0]},
        {first: "It rained all day.", second: "The sun shone.", "idx": 1, "label": labels[1]},
    )


_MNLI = ("validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
_ANLI = {"uid": "x", "context": "Ada wrote the first program.", "hypothesis": "Ada wrote."}
_ARC = {
    "id": "q1",
    "question": "Which of these is a mammal?",
    "choices": {"text": ["Trout", "Bat", "Wren"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
_TRIVIA_ANSWER = {
    "aliases": ["Everest", "Mount Everest"],
    "normalized_aliases": ["everest", "mount everest"],
    "matched_wiki_entity_name": "",
    "normalized_matched_wiki_entity_name": "",
    "normalized_value": "everest",
    "type": "WikipediaEntity",
    "value": "Mount Everest",
}
_TRIVIA = {
    "question": "Which is the highest mountain?",
    "question_id": "t1",
    "question_source": "http://example.org",
    "entity_pages": [],
    "search_results": [],
    "answer": _TRIVIA_ANSWER,
}
_SQUAD = {
    "id": "s1",
    "title": "Tower",
    "context": "The tower was built in 1889. It is tall.",
    "question": "When was the tower built?",
    "answers": {"text": ["in 1889", "1889"], "answer_start": [20, 23]},
}
_MULTIRC = {
    "paragraph": "<b>Sent 1: </b>Bob has a dog.<br>",
    "question": "What has Bob?",
    "idx": {"paragraph": 0, "question": 0, "answer": 0},
}
_WSC = {
    "text": "Mark told Pete that he was late .",
    "span1_index": 2,
    "span2_text": "he",
    "span2_index": 4,
}
_C4 = {
    "text": "A page of text.\nIt has two lines.",
    "url": "http://example.org",
    "content-type": "text/plain",
    "content-length": "33",
    "timestamp": "2019-04-25T12:57:54Z",
}

EXAMPLES: dict[str, dict[str, list[dict]]] = {
    "super_glue/boolq:1.0.2": _in_all(
        {"question": "is ice cold", "passage": "Ice is frozen.", "idx": 0, "label": 1},
        {"question": "is fire cold", "passage": "Fire is hot.", "idx": 1, "label": 0},
    ),
    "super_glue/cb:1.0.2": _in_all(*_pair("premise", "hypothesis", (0, 1))),
    "super_glue/copa:1.0.2": _in_all(
        {
            "premise": "The glass fell.",
            "choice1": "It broke.",
            "choice2": "It sang.",
            "question": "effect",
            "idx": 0,
            "label": 0,
        }
    ),
    "super_glue/multirc:1.0.2": _in_all(
        {**_MULTIRC, "answer": "A dog", "label": 1},
        {
            **_MULTIRC,
            "answer": "A cat",
            "label": 0,
            "idx": {"paragraph": 0, "question": 0, "answer": 1},
        },
    ),
    "super_glue/record:1.0.2": _in_all(
        {
            "passage": "Ann met Ben.\n@highlight\nThey talked",
            "query": "@placeholder met Ben.",
            "entities": ["Ann", "Ben"],
            "answers": ["Ann"],
            "idx": {"passage": 0, "query": 0},
        }
    ),
    "super_glue/rte:1.0.2": _in_all(*_pair("premise", "hypothesis")),
    "super_glue/wic:1.0.2": _in_all(
        {
            "word": "bank",
            "sentence1": "The bank was steep.",
            "sentence2": "The bank was closed.",
            "start1": 4,
            "end1": 8,
            "start2": 4,
            "end2": 8,
            "idx": 0,
            "label": 0,
        }
    ),
    "super_glue/wsc.fixed:1.0.2": _in_all(
        {**_WSC, "span1_text": "Pete", "idx": 0, "label": 1},
        {**_WSC, "span1_text": "Mark", "span1_index": 0, "idx": 1, "label": 0},
    ),
    "super_glue/axb:1.0.2": _in_all(*_pair("sentence1", "sentence2"), splits=("test",)),
    "super_glue/axg:1.0.2": _in_all(*_pair("premise", "hypothesis"), splits=("test",)),
    "glue/cola:2.0.0": _in_all(
        {"sentence": "The cat sat.", "idx": 0, "label": 1},
        {"sentence": "Cat the sat.", "idx": 1, "label": 0},
    ),
    "glue/sst2:2.0.0": _in_all(
        {"sentence": "a joy", "idx": 0, "label": 1},
        {"sentence": "a bore", "idx": 1, "label": 0},
    ),
    "glue/mrpc:2.0.0": _in_all(*_pair("sentence1", "sentence2")),
    "glue/qqp:2.0.0": _in_all(*_pair("question1", "question2")),
    "glue/stsb:2.0.0": _in_all(*_pair("sentence1", "sentence2", (1.9, 4.5))),
    "glue/mnli:2.0.0": _in_all(
        *_pair("premise", "hypothesis", (0, 2)), splits=("train", *_MNLI)
    ),
    "glue/mnli_matched:2.0.0": _in_all(
        *_pair("premise", "hypothesis", (0, 2)), splits=("validation", "test")
    ),
    "glue/mnli_mismatched:2.0.0": _in_all(
        *_pair("premise", "hypothesis", (0, 2)), splits=("validation", "test")
    ),
    "glue/qnli:2.0.0": _in_all(*_pair("question", "sentence")),
    "glue/rte:2.0.0": _in_all(*_pair("sentence1", "sentence2")),
    "glue/ax:2.0.0": _in_all(*_pair("premise", "hypothesis"), splits=("test",)),
    "definite_pronoun_resolution:1.1.0": _in_all(
        {
            "sentence": "Bob asked Tom if he can lend some money.",
            "pronoun": "he",
            "candidates": ["Bob", "Tom"],
            "label": 1,
        },
        splits=("train", "test"),
    ),
    "squad/v1.1:3.0.0": _in_all(_SQUAD, splits=("train", "validation")),
    "cnn_dailymail:3.4.0": _in_all(
        {
            "article": "A dog ran off. It came back.",
            "highlights": "Dog returns.",
            "publisher": "none",
            "id": "1",
        }
    ),
    "xsum:1.1.0": _in_all(
        {"document": "A dog ran off. It is back.", "summary": "Dog is back."}
    ),
    "winogrande:1.1.0": {
        **_in_all(
            {
                "sentence": "The cup missed the bag as the _ was wide.",
                "option1": "Cup",
                "option2": "Bag",
                "label": "1",
            },
            splits=("train_xs", "train_s", "train_m", "train_l", "train_xl", "validation"),
        ),
        "test": [
            {
                "sentence": "Ann thanked Ivy as _ had helped.",
                "option1": "Ann",
                "option2": "Ivy",
                "label": -1,
            }
        ],
    },
    **{
        f"anli/{round_}:0.1.0": _in_all({**_ANLI, "label": label})
        for round_, label in (("r1", "e"), ("r2", "n"), ("r3", "c"))
    },
    "ai2_arc/ARC-Easy:1.0.0": _in_all(_ARC),
    "ai2_arc/ARC-Challenge:1.0.0": _in_all(
        {
            **_ARC,
            "choices": {"text": list("PQRST"), "label": list("ABCDE")},
            "answerKey": "E",
        }
    ),
    "natural_questions_open:1.0.0": {
        "train": [
            {"question": f"who wrote book {i}", "answer": ["Homer", "a poet"]} for i in range(3)
        ],
        "validation": [{"question": "who sang", "answer": ["Nobody"]}],
    },
    "web_questions:1.0.0": {
        split: [
            {
                "question": f"where is town {i}?",
                "answers": ["Spain", "Europe"],
                "url": "http://example.org",
            }
            for i in range(3)
        ]
        for split in ("train", "test")
    },
    "trivia_qa/unfiltered.nocontext:1.1.0": {
        "train": [{**_TRIVIA, "question_id": f"t{i}"} for i in range(3)],
        "validation": [_TRIVIA],
        "test": [_TRIVIA],
    },
    "c4/en:3.1.0": _in_all(_C4, splits=("train", "validation")),
}


@contextlib.contextmanager
def divide_closed_book() -> Iterator[None]:
    """Divides the training questions of the closed-book tasks as their number here allows.

    Two of the three examples are for training, and one is for validation.
    """
    sizes = dict.fromkeys(closed_book.SIZES, 2)
    with mock.patch.object(closed_book, "SIZES", sizes):
        yield


def write_all(data_dir: Path) -> None:
    """Writes every data set of EXAMPLES."""
    for name in EXAMPLES:
        write_dataset(name, data_dir)


def write_dataset(
    tfds_name: str, data_dir: Path, splits: dict[str, list[dict]] | None = None
) -> None:
    """Makes the builder of a data set write examples instead of downloading its data.

    Args:
      tfds_name: A name with its version, such as "xsum:1.1.0".
      data_dir: The folder for all data sets.
      splits: split -> examples; by default those of EXAMPLES.
    """
    splits = EXAMPLES[tfds_name] if splits is None else splits
    builder = tfds.builder(tfds_name, data_dir=str(data_dir))
    generators = {
        split: [(index, example) for index, example in enumerate(examples)]
        for split, examples in splits.items()
    }
    examples = mock.patch.object(type(builder), "_split_generators", return_value=generators)
    with examples, silence_tfds():
        builder.download_and_prepare()


@contextlib.contextmanager
def silence_tfds():
    """Hides TFDS's progress bars and messages."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
