"""The batches of training: T5's dataset function for a task or mixture of seqio's registry."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator

import gin
import seqio
import tensorflow.compat.v1 as tf
from t5.models import mesh_transformer

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.runs import data
from mtf_switch.runs.objective import Objective
from tasks import corpus_batches


def make_input_fn(objective: Objective, settings: RunSettings, first_step: int) -> Callable:
    """Makes the input function of training: the objective's own, or `make_train_input_fn`.

    Args:
      objective: What the run minimizes.
      settings: The settings of the run.
      first_step: The step at which training starts.
    """
    own = objective.make_input_fn(settings, first_step)
    return own or make_train_input_fn(settings, first_step)


def make_train_input_fn(settings: RunSettings, first_step: int) -> Callable:
    """Makes the input function of training.

    Args:
      settings: The settings of the run.
      first_step: The step at which training starts. If `settings.skip_seen_data` is set, that
        number of batches is skipped. Otherwise each first step gives the data another order, so
        that a resumed run does not read its first batches again.
    """
    reorders = first_step > 0 and not settings.skip_seen_data
    skipped = first_step if settings.skip_seen_data else 0

    def input_fn(params):
        del params
        with _order_of_step(first_step) if reorders else contextlib.nullcontext({}) as seed:
            dataset = data.build_quickly(lambda: _read_batches(settings, skipped, **seed))
        return dataset.prefetch(tf.data.experimental.AUTOTUNE)

    return input_fn


def _read_batches(settings: RunSettings, skipped: int, **seed: int | None) -> tf.data.Dataset:
    """Returns the batches of training behind the first `skipped` ones, without an end."""
    given = {**gin.get_bindings(mesh_transformer.mesh_train_dataset_fn), **seed}
    if not given.get("pack", True) and not given.get("use_cached"):
        task = seqio.get_mixture_or_task(settings.task)
        split = given.get("dataset_split", "train")
        tokens = corpus_batches.find_tokens(task, split)
        if tokens:
            return corpus_batches.make_batches(
                task,
                tokens,
                split,
                settings.sequence_length,
                settings.batch_size,
                given.get("shuffle", True),
                given.get("seed"),
                skipped,
            )
    examples = mesh_transformer.mesh_train_dataset_fn(
        settings.task, settings.sequence_length, **seed
    )
    return examples.repeat().batch(settings.batch_size, drop_remainder=True).skip(skipped)


@contextlib.contextmanager
def _order_of_step(first_step: int) -> Iterator[dict[str, int | None]]:
    """Derives the seeds of the data from the step at which a run starts.

    There are two seeds: that of T5's dataset function, which is yielded as its argument, and
    that of the graph, which tf.data mixes into it.
    """
    seed = gin.get_bindings(mesh_transformer.mesh_train_dataset_fn).get("seed")
    with data.graph_seed(_derive_seed(tf.get_default_graph().seed, first_step)):
        yield {"seed": _derive_seed(seed, first_step)}


def _derive_seed(seed: int | None, first_step: int) -> int | None:
    """Returns a different seed for each step, or None without a seed: the order is random."""
    return None if seed is None else zlib.crc32(f"{seed},{first_step}".encode()) & 0x3FFFFFFF
