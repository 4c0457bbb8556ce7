"""Hand-written examples of every TFDS data set of the paper, and the text that they become.

TFDS's own builders encode and write them, so that the folder is what `prepare` would have left,
except for its size. Every text is made up.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from unittest import mock

import tensorflow_datasets as tfds

TRAIN_AND_TEST = ("train", "validation", "test")


def _in_all(*examples: dict, splits: tuple[str, ...] = TRAIN_AND_TEST) -> dict:
    return {split: list(examples) for split in splits}


def _pair(first: str, second: str, labels: tuple = (0, 1)) -> tuple[dict, dict]:
    """Two examples of sentence pairs under the given names of features."""
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
# Of the three training questions, two are for training: see tasks.closed_book.
CLOSED_BOOK_TRAINING = 2

_ENTAIL = "premise: The cat sat on the mat."
# task -> split -> (inputs, targets) of one of its examples.
GOLDEN: dict[str, dict[str, tuple[str, str]]] = {
    "super_glue_boolq_v102": {
        "train": ("boolq passage: Ice is frozen. question: is ice cold", "True")
    },
    "super_glue_cb_v102": {
        "validation": (f"cb hypothesis: A cat sat. {_ENTAIL}", "entailment"),
    },
    "super_glue_copa_v102": {
        "train": (
            "copa choice1: It broke. choice2: It sang. premise: The glass fell. "
            "question: effect",
            "choice1",
        )
    },
    "super_glue_multirc_v102": {
        "validation": (
            "multirc question: What has Bob? answer: A dog paragraph: Sent 1: Bob has a dog. ",
            "True",
        )
    },
    "super_glue_record_v102": {
        "train": (
            "record query: @placeholder met Ben. entities: Ann, Ben passage: Ann met Ben. "
            "They talked",
            "Ann",
        )
    },
    "super_glue_rte_v102": {"train": (f"rte hypothesis: A cat sat. {_ENTAIL}", "entailment")},
    "super_glue_wic_v102": {
        "train": (
            "wic sentence1: The bank was steep. sentence2: The bank was closed. word: bank",
            "False",
        )
    },
    "super_glue_wsc_v102_simple_train": {
        "train": ("wsc: Mark told Pete that *he* was late .", "Pete")
    },
    "super_glue_wsc_v102_simple_eval": {
        "validation": ("wsc: Mark told Pete that *he* was late .", "Pete")
    },
    "super_glue_axb_v102": {
        "test": ("rte hypothesis: A cat sat. premise: The cat sat on the mat.", "entailment")
    },
    "super_glue_axg_v102": {
        "test": ("rte hypothesis: A cat sat. premise: The cat sat on the mat.", "entailment")
    },
    "glue_cola_v002": {"train": ("cola sentence: The cat sat.", "acceptable")},
    "glue_sst2_v002": {"train": ("sst2 sentence: a joy", "positive")},
    "glue_mrpc_v002": {
        "train": (
            "mrpc sentence1: The cat sat on the mat. sentence2: A cat sat.",
            "not_equivalent",
        )
    },
    "glue_qqp_v002": {
        "train": (
            "qqp question1: The cat sat on the mat. question2: A cat sat.",
            "not_duplicate",
        )
    },
    "glue_stsb_v002": {
        # 1.9 is rounded to the nearest fifth.
        "train": ("stsb sentence1: The cat sat on the mat. sentence2: A cat sat.", "2.0")
    },
    "glue_mnli_v002": {"train": (f"mnli hypothesis: A cat sat. {_ENTAIL}", "entailment")},
    "glue_mnli_matched_v002": {
        "validation": (f"mnli hypothesis: A cat sat. {_ENTAIL}", "entailment")
    },
    "glue_mnli_mismatched_v002": {
        "validation": (f"mnli hypothesis: A cat sat. {_ENTAIL}", "entailment")
    },
    "glue_qnli_v002": {
        "train": (
            "qnli question: The cat sat on the mat. sentence: A cat sat.",
            "entailment",
        )
    },
    "glue_rte_v002": {
        "train": ("rte sentence1: The cat sat on the mat. sentence2: A cat sat.", "entailment")
    },
    "glue_ax_v002": {"test": (f"mnli hypothesis: A cat sat. {_ENTAIL}", "entailment")},
    "dpr_v001_simple": {"train": ("wsc: Bob asked Tom if *he* can lend some money.", "Tom")},
    "squad_v010_allanswers": {
        # T5 sets punctuation apart.
        "train": (
            "question: When was the tower built ? context: The tower was built in 1889 . It is "
            "tall . ",
            "in 1889",
        )
    },
    "cnn_dailymail_v002": {
        "validation": ("summarize: A dog ran off. It came back.", "Dog returns.")
    },
    "xsum": {"validation": ("summarize: A dog ran off. It is back.", "Dog is back.")},
    "winogrande_xl": {
        "train": (
            "the cup missed the bag as the _ was wide. \\n (a) cup (b) bag",
            "cup",
        ),
        "test": ("ann thanked ivy as _ had helped. \\n (a) ann (b) ivy", "<unk>"),
    },
    "anli_r1": {
        "train": (
            "anli hypothesis: Ada wrote. premise: Ada wrote the first program.",
            "entailment",
        )
    },
    "anli_r2": {
        "test": (
            "anli hypothesis: Ada wrote. premise: Ada wrote the first program.",
            "neutral",
        )
    },
    "anli_r3": {
        "validation": (
            "anli hypothesis: Ada wrote. premise: Ada wrote the first program.",
            "contradiction",
        )
    },
    "arc_easy": {
        "train": ("which of these is a mammal? \\n (a) trout (b) bat (c) wren", "bat")
    },
    "arc_challenge": {
        "validation": ("which of these is a mammal? \\n (a) p (b) q (c) r (d) s (e) t", "t")
    },
    "natural_questions_open": {
        "train": ("nq question: who wrote book 0", "Homer"),
        "validation": ("nq question: who wrote book 2", "Homer"),
        "test": ("nq question: who sang", "Nobody"),
    },
    "web_questions_open": {
        "train": ("wq question: where is town 0?", "Spain"),
        "validation": ("wq question: where is town 2?", "Spain"),
        "test": ("wq question: where is town 0?", "Spain"),
    },
    "trivia_qa_open": {
        "train": ("trivia_qa question: Which is the highest mountain?", "Mount Everest"),
        "validation": ("trivia_qa question: Which is the highest mountain?", "Mount Everest"),
        "test": ("trivia_qa question: Which is the highest mountain?", "Mount Everest"),
    },
}


def write_all(data_dir: Path) -> None:
    """Writes every data set of EXAMPLES."""
    for name in EXAMPLES:
        write(name, data_dir)


def texts() -> list[str]:
    """All inputs and targets of GOLDEN, to train a vocabulary on."""
    return [text for of in GOLDEN.values() for pair in of.values() for text in pair]


def write(tfds_name: str, data_dir: Path, splits: dict[str, list[dict]] | None = None) -> None:
    """Lets the builder of a data set write examples in place of what it would download."""
    splits = EXAMPLES[tfds_name] if splits is None else splits
    builder = tfds.builder(tfds_name, data_dir=str(data_dir))
    generators = {
        split: [(index, example) for index, example in enumerate(examples)]
        for split, examples in splits.items()
    }
    of_class = mock.patch.object(type(builder), "_split_generators", return_value=generators)
    with of_class, quiet():
        builder.download_and_prepare()


@contextlib.contextmanager
def quiet():
    """Without TFDS's bars and lines."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
