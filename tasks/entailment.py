"""ANLI, rounds 1 to 3 (Nie et al., arXiv 1910.14599), in T5's format of MNLI.

    inputs   anli hypothesis: <hypothesis> premise: <context>
    targets  entailment, neutral or contradiction

Table 5 reports round 3. ANLI's authors train on the three rounds together: that is the mixture
`anli`, in proportion to the rounds' sizes.
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
# Training examples (Table 2 of the ANLI paper).
ROUNDS = {"anli_r1": 16_946.0, "anli_r2": 45_460.0, "anli_r3": 100_459.0}


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers the three rounds and their mixture.

    Args:
      vocabulary: None is T5's.
    """
    for name in ROUNDS:
        text_to_text.add(
            name,
            seqio.TfdsDataSource(
                f"anli/{name[-2:]}:0.1.0", splits=["train", "validation", "test"]
            ),
            [
                _with_premise,
                functools.partial(
                    t5_preprocessors.glue,
                    benchmark_name="anli",
                    label_names=LABELS,
                    feature_names=("hypothesis", "premise"),
                    id_key=None,
                ),
            ],
            text_to_text.features(vocabulary),
            [metrics.accuracy],
            functools.partial(t5_postprocessors.string_label_to_class_id, label_classes=LABELS),
        )
    text_to_text.add_mixture(MIXTURE, ROUNDS)


@seqio.map_over_dataset
def _with_premise(example: dict) -> dict:
    """ANLI's context, under the name that NLI data sets have for it."""
    return {**example, "premise": example["context"]}
