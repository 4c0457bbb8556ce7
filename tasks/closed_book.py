"""Closed-book question answering as in Roberts et al. (arXiv 2002.08910): no context is given.

    inputs   nq question: who wrote the iliad
    targets  Homer

Names, prefixes and splits are those of that paper: `natural_questions_open` ("nq question: "),
`web_questions_open` ("wq question: ") and `trivia_qa_open` ("trivia_qa question: "). The last
tenth of the training data is the validation split. Other papers call the test split the
development set. The first answer is the training target, and any given answer counts as
correct. The metrics are SQuAD's exact match and F1, with TriviaQA's own normalization for
TriviaQA.
"""

from __future__ import annotations

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
# Numbers of training examples without the validation split.
SIZES = {NATURAL_QUESTIONS: 79_168, WEB_QUESTIONS: 3_417, TRIVIA_QA: 78_785}


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers the three tasks, and their mixture in proportion to their sizes.

    Args:
      vocabulary: Their vocabulary, or None for T5's.
    """
    features = text_to_text.make_features(vocabulary)
    for name, tfds_name, test, text_format, metric in (
        (
            NATURAL_QUESTIONS,
            "natural_questions_open:1.0.0",
            "validation",
            _make_text_format("nq question: ", lambda example: example["answer"]),
            metrics.squad,
        ),
        (
            WEB_QUESTIONS,
            "web_questions:1.0.0",
            "test",
            _make_text_format("wq question: ", lambda example: example["answers"]),
            metrics.squad,
        ),
        (
            TRIVIA_QA,
            "trivia_qa/unfiltered.nocontext:1.1.0",
            "validation",
            _make_text_format(
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
        text_to_text.add_task(
            name,
            seqio.TfdsDataSource(tfds_name, splits=splits),
            text_format,
            features,
            [metric],
            t5_postprocessors.qa,
        )
    text_to_text.add_mixture(MIXTURE, {name: float(size) for name, size in SIZES.items()})


def _make_text_format(
    prefix: str, get_answers: Callable, get_target: Callable | None = None
) -> Callable:
    """Returns the preprocessor of a data set.

    Args:
      prefix: The beginning of the inputs.
      get_answers: Returns all correct answers of an example, [n] strings.
      get_target: Returns the answer to learn; by default, the first correct answer.
    """

    def format_example(example):
        answers = get_answers(example)
        return {
            "inputs": tf.strings.join([prefix, example["question"]]),
            "targets": get_target(example) if get_target else answers[0],
            "answers": answers,
        }

    return seqio.map_over_dataset(format_example)
