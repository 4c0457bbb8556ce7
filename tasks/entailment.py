"""ANLI, rounds 1 to 3 (Nie et al., arXiv 1910.14599), in the format that T5 uses for MNLI.

    inputs   anli hypothesis: <hypothesis> premise: <context>
    targets  entailment, neutral or contradiction

The paper's Table 5 reports round 3. ANLI's authors train on all three rounds together. The
mixture `anli` does the same, and draws the rounds in proportion to their sizes.
"""

from __future__ import annotations

import functools

import seqio
from t5.data import postprocessors as t5_postprocessors
from t5.data import preprocessors as t5_preprocessors
from t5.evaluation import metrics

from tasks import text_to_text

LABELS = ("entailment", "neutral", "contradiction")
MIXTURE = "anli"
# Numbers of training examples in each round (Table 2 of the ANLI paper).
ROUNDS = {"anli_r1": 16_946.0, "anli_r2": 45_460.0, "anli_r3": 100_459.0}


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers the three rounds and their mixture.

    Args:
      vocabulary: Their vocabulary, or None for T5's.
    """
    for name in ROUNDS:
        text_to_text.add_task(
            name,
            seqio.TfdsDataSource(
                f"anli/{name[-2:]}:0.1.0", splits=["train", "validation", "test"]
            ),
            [
                _add_premise,
                functools.partial(
                    t5_preprocessors.glue,
                    benchmark_name="anli",
                    label_names=LABELS,
                    feature_names=("hypothesis", "premise"),
                    id_key=None,
                ),
            ],
            text_to_text.make_features(vocabulary),
            [metrics.accuracy],
            functools.partial(t5_postprocessors.string_label_to_class_id, label_classes=LABELS),
        )
    text_to_text.add_mixture(MIXTURE, ROUNDS)


@seqio.map_over_dataset
def _add_premise(example: dict) -> dict:
    """Adds ANLI's "context" under the name that other NLI data sets use: "premise"."""
    return {**example, "premise": example["context"]}
