"""The task of pre-training on C4 without the text that an example repeats.

T5's own task on C4 is `c4_v220_span_corruption`. The models that the paper fine-tunes saw a C4
without the text that an example repeats (Section 4.1; Lee et al., arXiv 2107.06499).
`c4_v220_span_corruption_no_repeats` adds this step to T5's task and is otherwise equal. T5's
span corruption masks 15% of the tokens in spans of 3 tokens on average, as the paper does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import seqio
from t5.data import preprocessors as t5_preprocessors

from tasks import text_to_text
from tasks.repeats import remove_repeats

C4 = "c4/en:2.2.0"
NO_REPEATS = "c4_v220_span_corruption_no_repeats"


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers `c4_v220_span_corruption_no_repeats`.

    Args:
      vocabulary: The task's vocabulary, or None for T5's.
    """
    add_span_corruption_task(
        NO_REPEATS,
        seqio.TfdsDataSource(C4),
        text_to_text.make_features(vocabulary),
        [remove_repeats],
    )


def add_span_corruption_task(
    name: str,
    source: seqio.DataSource,
    output_features: dict[str, seqio.Feature],
    token_preprocessors: Sequence[Callable] = (),
) -> seqio.Task:
    """Registers T5's span corruption, and replaces an earlier task with the same name.

    Args:
      name: The task's name.
      source: Examples with the field "text".
      output_features: The result of `text_to_text.make_features`.
      token_preprocessors: Further preprocessors of the tokenized text, applied before seqio
        caches it.
    """
    seqio.TaskRegistry.remove(name)
    return seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            functools.partial(
                seqio.preprocessors.rekey, key_map={"inputs": None, "targets": "text"}
            ),
            seqio.preprocessors.tokenize,
            *token_preprocessors,
            seqio.CacheDatasetPlaceholder(),
            t5_preprocessors.span_corruption,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=output_features,
        metric_fns=[],
    )
