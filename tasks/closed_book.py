"""Closed-book questions as in Roberts et al. (arXiv 2002.08910): no text to look the answer up.

    inputs   nq question: who wrote the iliad
    targets  Homer

Names, prefixes and splits are theirs: `natural_questions_open` ("nq question: "),
`web_questions_open` ("wq question: ") and `trivia_qa_open` ("trivia_qa question: "). The last
tenth of the training data is the validation split, and what others call the development set
the test split. A model learns the first answer, and may give any (exact match and F1 as
in SQuAD, TriviaQA's own normalisation for TriviaQA).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import seqio
import tensorflow as tf
from t5.data import postprocessors as t5_postprocessors
from t5.evaluation import metrics

from tasks import text_to_text

NATURAL_QUESTIONS = "natural_questions_open"
WEB_QUESTIONS = "web_questions_open"
TRIVIA_QA = "trivia_qa_open"
MIXTURE = "closed_book_qa"
# Training examples, after the validation examples are taken away.
SIZES = {NATURAL_QUESTIONS: 79_168, WEB_QUESTIONS: 3_417, TRIVIA_QA: 78_785}


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers the three tasks, and their mixture in proportion to their sizes.

    Args:
      vocabulary: None is T5's.
    """
    features = text_to_text.features(vocabulary)
    for name, tfds_name, test, text_format, metric in (
        (
            NATURAL_QUESTIONS,
            "natural_questions_open:1.0.0",
            "validation",
            _text_format("nq question: ", lambda example: example["answer"]),
            metrics.squad,
        ),
        (
            WEB_QUESTIONS,
            "web_questions:1.0.0",
            "test",
            _text_format("wq question: ", lambda example: example["answers"]),
            metrics.squad,
        ),
        (
            TRIVIA_QA,
            "trivia_qa/unfiltered.nocontext:1.1.0",
            "validation",
            _text_format(
                "trivia_qa question: ",
                lambda example: example["answer"]["aliases"],
                lambda example: example["answer"]["value"],
            ),
            metrics.trivia_qa,
        ),
    ):
        splits = {
            "train": f"train[:{SIZES[name]}]",
            "validation": f"train[{SIZES[name]}:]",
            "test": test,
        }
        text_to_text.add(
            name,
            seqio.TfdsDataSource(tfds_name, splits=splits),
            text_format,
            features,
            [metric],
            t5_postprocessors.qa,
        )
    text_to_text.add_mixture(MIXTURE, {name: float(size) for name, size in SIZES.items()})


def _text_format(prefix: str, answers: Callable, target: Callable | None = None) -> Callable:
    """The preprocessor of a data set.

    Args:
      prefix: of the inputs.
      answers: from an example to all right answers, [n] strings.
      target: from an example to the answer to learn; the first of them by default.
    """

    def question_and_answers(example):
        right = answers(example)
        return {
            "inputs": tf.strings.join([prefix, example["question"]]),
            "targets": target(example) if target else right[0],
            "answers": right,
        }

    return functools.partial(_map, question_and_answers)


def _map(function: Callable, dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.experimental.AUTOTUNE)
