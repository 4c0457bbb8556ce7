"""Finds the size of a task's vocabulary without downloading the vocabulary."""

from __future__ import annotations

from typing import Any

import seqio
import t5.data

from mtf_switch.config import gin_config
from mtf_switch.planning.plan import PlannedVocabulary
from mtf_switch.runs import registered_tasks
from tasks import mc4, pretraining

# A file in gin/models/ may bind this macro to the task for which the model was made.
_MODEL_TASK = "%PRETRAINING_TASK"


def choose_task(task: str, default: str) -> str:
    """Returns the task whose vocabulary a model has.

    Args:
      task: The configured task.
      default: The planner's default task. If it is configured, the model's own task replaces
        it.
    """
    if task != default:
        return task
    return gin_config.find_value(_MODEL_TASK) or default


def find_vocabulary(task: str) -> PlannedVocabulary:
    """Finds the size of a task's vocabulary.

    Raises:
      UserError: If there is no such task.
    """
    registered_tasks.check_task_exists(task)
    features = seqio.get_mixture_or_task(task).output_features
    size = _count_pieces(features["targets"].vocabulary)
    return PlannedVocabulary(size, f"that of the task {task}")


def _count_pieces(vocabulary: Any) -> int:
    """Counts pieces and sentinels. The sizes of T5's and mT5's vocabularies are constants."""
    if isinstance(vocabulary, pretraining.CorpusVocabulary):
        size = vocabulary.corpus.vocab_size
        # The text decides the size. It is prepared if it is not in the cache.
        return vocabulary.vocab_size if size is None else size + pretraining.SENTINELS
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        pieces = {t5.data.DEFAULT_SPM_PATH: 32000, mc4.VOCABULARY: 250100}
        known = pieces.get(vocabulary.sentencepiece_model_file)
        if known:
            return known + vocabulary.extra_ids
    return vocabulary.vocab_size
