"""The results of `tasks.register` by gin's values: vocabularies, mixtures, text tasks."""

from __future__ import annotations

import gin
import numpy as np
import seqio
import t5.data
from golden_texts import ADDED_TASKS

import tasks
from tasks import t5_tasks


def test_by_default_every_task_has_t5s_vocabulary_and_nothing_is_read() -> None:
    gin.clear_config()
    tasks.register()
    default = t5.data.get_default_vocabulary()
    for name in (*ADDED_TASKS, "super_glue_boolq_v102", t5_tasks.SQUAD):
        found = seqio.TaskRegistry.get(name).output_features["targets"].vocabulary
        assert found._sentencepiece_model_file == default._sentencepiece_model_file
        assert (found.extra_ids, found._model) == (100, None)


def test_a_vocabulary_can_be_that_of_the_embedded_text() -> None:
    gin.bind_parameter("task_vocabulary.source", "embedded_text")
    tasks.register()
    vocabulary = seqio.TaskRegistry.get("xsum").output_features["inputs"].vocabulary
    assert vocabulary.corpus.name == "embedded_text"
    assert seqio.TaskRegistry.get("glue_cola_v002").output_features["inputs"].vocabulary == (
        vocabulary
    )


def test_examples_of_a_mixture_are_drawn_by_size() -> None:
    tasks.register()
    mixture = seqio.MixtureRegistry.get("anli")
    rates = [mixture.get_rate(task) for task in mixture.tasks]
    np.testing.assert_allclose(rates, [16_946, 45_460, 100_459])
