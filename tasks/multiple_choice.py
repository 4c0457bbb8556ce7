r"""Winogrande and ARC in UnifiedQA's format (Khashabi et al., arXiv 2005.00700, Section 3.2).

    inputs   which of these is a mammal? \n (a) trout (b) bat (c) wren
    targets  bat

Lower case throughout; "\n" is a backslash and an n, as T5's vocabulary has no line break. The
answer is the text of the option. Winogrande (Sakaguchi et al., arXiv 1907.10641) is a sentence
with a blank and two options, trained on its XL split; ARC (Clark et al., arXiv 1803.05457) has
three to five options.
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
      vocabulary: None is T5's.
    """
    features = text_to_text.features(vocabulary)
    splits = {"train": "train_xl", "validation": "validation", "test": "test"}
    sources = {
        WINOGRANDE: (seqio.TfdsDataSource("winogrande:1.1.0", splits=splits), winogrande),
        ARC_EASY: (_arc_source("ARC-Easy"), arc),
        ARC_CHALLENGE: (_arc_source("ARC-Challenge"), arc),
    }
    for name, (source, text_format) in sources.items():
        text_to_text.add(
            name,
            source,
            text_format,
            features,
            [metrics.accuracy],
            t5_postprocessors.lower_text,
        )


def _arc_source(config: str) -> seqio.DataSource:
    return seqio.TfdsDataSource(
        f"ai2_arc/{config}:1.0.0", splits=["train", "validation", "test"]
    )


@seqio.map_over_dataset
def winogrande(example: dict) -> dict:
    """A sentence whose blank "_" one of two options fills; the test split has no label."""
    options = tf.stack([example["option1"], example["option2"]])
    return _with_options(example["sentence"], options, example["label"])


@seqio.map_over_dataset
def arc(example: dict) -> dict:
    """A question of grade-school science and its options."""
    labels = example["choices"]["label"]
    answer = tf.argmax(tf.cast(tf.equal(labels, example["answerKey"]), tf.int32))
    found = tf.reduce_any(tf.equal(labels, example["answerKey"]))
    answer = tf.where(found, answer, -1)
    return _with_options(example["question"], example["choices"]["text"], answer)


def _with_options(question: tf.Tensor, options: tf.Tensor, answer: tf.Tensor) -> dict:
    """UnifiedQA's inputs and targets.

    Args:
      question: string scalar.
      options: [up to 5] strings.
      answer: integer scalar, the index of the right option; -1 if it is not told.
    """
    letters = tf.constant(_LETTERS)[: tf.size(options)]
    lettered = tf.strings.reduce_join(
        tf.strings.join([letters, options], separator=" "), separator=" "
    )
    inputs = tf.strings.join([question, "\\n", lettered], separator=" ")
    told = tf.concat([["<unk>"], options], axis=0)[tf.cast(answer, tf.int32) + 1]
    return {"inputs": _lower(inputs), "targets": _lower(told)}


def _lower(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.lower(text, encoding="utf-8")
