r"""Winogrande and ARC in UnifiedQA's format (Khashabi et al., arXiv 2005.00700, Section 3.2).

    inputs   which of these is a mammal? \n (a) trout (b) bat (c) wren
    targets  bat

All text is lower case. "\n" is a backslash and an n, because T5's vocabulary has no line break.
The answer is the text of the correct option. Winogrande (Sakaguchi et al., arXiv 1907.10641)
has sentences with a blank and two options; its XL split is used for training. ARC (Clark et
al., arXiv 1803.05457) has questions with three to five options.
"""

from __future__ import annotations

import seqio
import tensorflow as tf
from t5.data import postprocessors as t5_postprocessors
from t5.evaluation import metrics

from tasks import text_to_text

WINOGRANDE = "winogrande_xl"
ARC_EASY, ARC_CHALLENGE = "arc_easy", "arc_challenge"

_LETTERS = ("(a)", "(b)", "(c)", "(d)", "(e)")


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers `winogrande_xl`, `arc_easy` and `arc_challenge`.

    Args:
      vocabulary: Their vocabulary, or None for T5's.
    """
    features = text_to_text.make_features(vocabulary)
    splits = {"train": "train_xl", "validation": "validation", "test": "test"}
    sources = {
        WINOGRANDE: (
            seqio.TfdsDataSource("winogrande:1.1.0", splits=splits),
            format_winogrande,
        ),
        ARC_EASY: (_make_arc_source("ARC-Easy"), format_arc),
        ARC_CHALLENGE: (_make_arc_source("ARC-Challenge"), format_arc),
    }
    for name, (source, text_format) in sources.items():
        text_to_text.add_task(
            name,
            source,
            text_format,
            features,
            [metrics.accuracy],
            t5_postprocessors.lower_text,
        )


def _make_arc_source(config: str) -> seqio.DataSource:
    return seqio.TfdsDataSource(
        f"ai2_arc/{config}:1.0.0", splits=["train", "validation", "test"]
    )


@seqio.map_over_dataset
def format_winogrande(example: dict) -> dict:
    """Formats a sentence with a blank "_" and two options; the test split has no labels."""
    options = tf.stack([example["option1"], example["option2"]])
    return _format_question(example["sentence"], options, example["label"])


@seqio.map_over_dataset
def format_arc(example: dict) -> dict:
    """Formats a question of grade-school science and its options."""
    labels = example["choices"]["label"]
    answer = tf.argmax(tf.cast(tf.equal(labels, example["answerKey"]), tf.int32))
    found = tf.reduce_any(tf.equal(labels, example["answerKey"]))
    answer = tf.where(found, answer, -1)
    return _format_question(example["question"], example["choices"]["text"], answer)


def _format_question(question: tf.Tensor, options: tf.Tensor, answer: tf.Tensor) -> dict:
    """Returns the inputs and targets of UnifiedQA.

    Args:
      question: String scalar.
      options: [n] strings, n up to 5.
      answer: Integer scalar, the index of the correct option, or -1 if it is unknown.
    """
    letters = tf.constant(_LETTERS)[: tf.size(options)]
    lettered = tf.strings.reduce_join(
        tf.strings.join([letters, options], separator=" "), separator=" "
    )
    inputs = tf.strings.join([question, "\\n", lettered], separator=" ")
    target = tf.concat([["<unk>"], options], axis=0)[tf.cast(answer, tf.int32) + 1]
    return {"inputs": _lower(inputs), "targets": _lower(target)}


def _lower(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.lower(text, encoding="utf-8")
