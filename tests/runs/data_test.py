"""The data of a run: the same for a seed, from where it stopped, and every example once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import seqio
import tensorflow.compat.v1 as tf
from tensorflow.python.autograph.core import ag_ctx
from tiny_run import BATCH, INPUTS, TARGETS, TinyRun

from mtf_switch.config import gin_config, run_settings
from mtf_switch.errors import UserError
from mtf_switch.runs import data, training_data

NAMES = ("mtf_switch_test_ones", "mtf_switch_test_twos", "mtf_switch_test_both")


def read(input_fn: Callable, batches: int | None = None, seed: int = 0) -> list[dict]:
    """The batches of an input function, in a graph with the seed of a run."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(seed)
        batch = tf.data.make_one_shot_iterator(input_fn({})).get_next()
        found = []
        try:
            while batches is None or len(found) < batches:
                found.append(session.run(batch))
        except tf.errors.OutOfRangeError:
            pass
        return found


def assert_equal(batches: list[dict], others: list[dict]) -> None:
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert batch.keys() == other.keys()
        for feature in batch:
            np.testing.assert_array_equal(batch[feature], other[feature])


def differ(batches: list[dict], others: list[dict]) -> bool:
    return any(
        not np.array_equal(batch[name], other[name])
        for batch, other in zip(batches, others)
        for name in batch
    )


def make_settings(tiny: TinyRun, **params: str) -> run_settings.RunSettings:
    settings, _ = tiny.parse({name.replace("__", "."): value for name, value in params.items()})
    return settings


@pytest.fixture
def tasks() -> Iterator[None]:
    """Two tasks with one example each (ones, and twos), and a mixture of both."""
    feature = seqio.Feature(seqio.PassThroughVocabulary(400, eos_id=1), add_eos=False)
    for value, name in enumerate(NAMES[:2], start=1):

        def example(split, shuffle_files=False, seed=None, value=value):
            return tf.data.Dataset.from_tensors({f: [value] * 3 for f in ("inputs", "targets")})

        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(example, splits=["test"]),
            preprocessors=[lambda dataset: dataset],
            output_features={"inputs": feature, "targets": feature},
        )
    seqio.MixtureRegistry.add(NAMES[2], [(name, 1.0) for name in NAMES[:2]])
    yield
    seqio.MixtureRegistry.remove(NAMES[2])
    for name in NAMES[:2]:
        seqio.TaskRegistry.remove(name)


def test_training_reads_the_same_for_a_seed_and_continues_where_it_stopped(
    tiny: TinyRun,
) -> None:
    settings = make_settings(tiny)
    batches = read(training_data.make_train_input_fn(settings, first_step=0), batches=5)
    assert {name: ids.shape for name, ids in batches[0].items()} == {
        "inputs": (BATCH, INPUTS),
        "targets": (BATCH, TARGETS),
    }
    assert_equal(
        read(training_data.make_train_input_fn(settings, first_step=0), batches=5), batches
    )
    assert_equal(
        read(training_data.make_train_input_fn(settings, first_step=3), batches=2), batches[3:]
    )
    # Another seed is bound in gin, and set for the graph.
    other = make_settings(tiny, run_config__seed__value="1")
    assert other.seed == 1
    assert differ(
        read(training_data.make_train_input_fn(other, first_step=0), 5, seed=1), batches
    )


@pytest.mark.parametrize(
    "seed", ["@run_config.seed()", pytest.param("17", marks=pytest.mark.slow)]
)
def test_without_skipping_a_resumed_run_reads_other_data_reproducibly(
    tiny: TinyRun, seed: str
) -> None:
    settings = make_settings(
        tiny, mesh_train_dataset_fn__seed=seed, utils__run__skip_seen_data="False"
    )

    def read_from(step: int) -> list[dict]:
        return read(training_data.make_train_input_fn(settings, first_step=step), batches=5)

    skipping = dataclasses.replace(settings, skip_seen_data=True)
    first = read(training_data.make_train_input_fn(skipping, first_step=0), batches=8)
    assert_equal(read_from(0), first[:5])
    assert_equal(read_from(3), read_from(3))
    rows = {
        step: {row.tobytes() for b in read_from(step) for row in b["inputs"]} for step in (3, 4)
    }
    seen = {row.tobytes() for batch in first for row in batch["inputs"]}
    assert not rows[3] & seen
    assert not rows[4] & (seen | rows[3])


def test_training_goes_through_the_corpus_more_than_once(tiny: TinyRun) -> None:
    """The tiny corpus has some 600 batches. A step after them has data, too."""
    settings = make_settings(tiny, utils__run__batch_size="512")
    batches = read(training_data.make_train_input_fn(settings, first_step=0), batches=25)
    rows = np.concatenate([batch["inputs"] for batch in batches])
    assert len(np.unique(rows, axis=0)) < len(rows)


def test_evaluation_reads_every_example_once_and_fills_up_the_last_batch(tiny: TinyRun) -> None:
    settings = make_settings(tiny)
    batches = read(data.make_eval_input_fn(settings, "validation", batches=None))
    assert {batch["targets"].shape for batch in batches} == {(BATCH, TARGETS)}
    targets = np.concatenate([batch["targets"] for batch in batches])
    examples = seqio.get_mixture_or_task("text_files").get_dataset(
        settings.sequence_length, "validation", shuffle=False, seed=0
    )
    expected = np.zeros_like(targets)
    for row, example in zip(expected, examples.as_numpy_iterator()):
        row[: len(example["targets"])] = example["targets"]
    np.testing.assert_array_equal(targets, expected)
    assert not targets[-1].any(), "the last batch is to be a partial one"


def test_evaluation_of_a_number_of_batches_reads_the_first_ones(tiny: TinyRun) -> None:
    settings = make_settings(tiny)
    every = read(data.make_eval_input_fn(settings, "validation", batches=None))
    first = read(data.make_eval_input_fn(settings, "validation", batches=1))
    assert_equal(first, every[:1])
    assert len(every) > 1


def test_runs_of_two_seeds_are_evaluated_on_the_same_examples(tiny: TinyRun) -> None:
    """Span corruption is random. It depends on the task's seed, not on that of the graph."""
    seed_0 = make_settings(tiny)
    batches = read(data.make_eval_input_fn(seed_0, "validation", batches=None), seed=0)
    seed_1 = make_settings(tiny, run_config__seed__value="1")
    others = read(data.make_eval_input_fn(seed_1, "validation", batches=None), seed=1)
    assert_equal(batches, others)


def test_a_mixture_is_evaluated_on_the_examples_of_all_its_tasks(
    tiny: TinyRun, tasks: None
) -> None:
    settings = dataclasses.replace(make_settings(tiny), task=NAMES[2])
    gin_config.bind("mesh_eval_dataset_fn.mixture_or_task_name", NAMES[2])
    (batch,) = read(data.make_eval_input_fn(settings, "test", batches=None))
    np.testing.assert_array_equal(batch["targets"][:, 0], [1, 2, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(batch["task_number"], [0, 1, 0, 0, 0, 0, 0, 0])
    small = dataclasses.replace(settings, batch_size=1)
    batches = read(data.make_eval_input_fn(small, "test", batches=1))
    assert [batch["targets"][0, 0] for batch in batches] == [1, 2], "one batch of each task"


def test_an_unknown_split_is_refused_with_those_that_there_are(
    tiny: TinyRun, tasks: None
) -> None:
    settings = dataclasses.replace(make_settings(tiny), task=NAMES[2])
    with pytest.raises(
        UserError, match=r"has no split 'validation'; it has test. Name one with"
    ):
        data.make_eval_input_fn(settings, "validation", batches=None)


def test_batches_in_memory_are_those_that_were_read(tiny: TinyRun) -> None:
    input_fn = data.make_eval_input_fn(make_settings(tiny), "validation", batches=None)
    batches = read(input_fn)
    assert_equal(read(data.read_into_memory(input_fn)), batches)
    size = sum(array.nbytes for batch in batches for array in batch.values())
    assert data.read_into_memory(input_fn, size) is not input_fn
    assert data.read_into_memory(input_fn, size - 1) is input_fn

    def read_nothing(params=None):
        return input_fn(params).take(0)

    assert data.read_into_memory(read_nothing) is read_nothing


def test_the_folders_of_cached_tasks_are_seqios(tiny, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("seqio.set_global_cache_dirs", given.append)
    tiny.parse({"data.task_cache.folders": f"[{str(tmp_path)!r}]"})
    assert given == [[str(tmp_path)]]


def test_a_task_that_is_not_in_the_cache_is_reported_before_any_work(tiny, tmp_path):
    outcome = tiny.train(tmp_path / "run", params={"mesh_train_dataset_fn.use_cached": "True"})
    assert outcome.code == 1
    assert "Task 'text_files' must be read from a cache (use_cached)" in outcome.err
    assert "docs/finetuning.md" in outcome.err


@pytest.fixture
def in_cache(tmp_path) -> Iterator[str]:
    """A task with three splits, of which seqio's cache has "train" and an empty "test"."""
    name = "mtf_switch_test_in_cache"
    feature = seqio.Feature(seqio.PassThroughVocabulary(400, eos_id=1), add_eos=False)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files=False, seed=None: None,
            splits=["train", "validation", "test"],
        ),
        preprocessors=[seqio.CacheDatasetPlaceholder()],
        output_features={"targets": feature},
    )
    folder = tmp_path / name
    folder.mkdir()
    (folder / "COMPLETED").write_text("")
    for split, number in (("train", 3), ("test", 0)):
        (folder / f"stats.{split}.json").write_text(f'{{"examples": {number}}}')
    before = seqio.get_global_cache_dirs()
    seqio.set_global_cache_dirs([str(tmp_path)])
    yield name
    seqio.set_global_cache_dirs(before)
    seqio.TaskRegistry.remove(name)


def test_a_split_that_a_cache_lacks_is_reported_before_any_work(in_cache) -> None:
    data.check_readable(in_cache, "train", cached=True)
    with pytest.raises(
        UserError, match=r"cache of .* no split 'validation'; it has test, trai"
    ):
        data.check_readable(in_cache, "validation", cached=True)
    with pytest.raises(UserError, match=r"The split 'test' of task .* is empty"):
        data.check_readable(in_cache, "test", cached=True)


def test_a_cached_mixture_needs_the_split_of_all_its_tasks(in_cache, tmp_path) -> None:
    other = seqio.TaskRegistry.get(in_cache).replace(name=f"{in_cache}_too")
    seqio.TaskRegistry.add_provider(other.name, other)
    seqio.MixtureRegistry.add(f"{in_cache}_both", [in_cache, other.name], default_rate=1.0)
    try:
        folder = tmp_path / other.name
        folder.mkdir()
        (folder / "COMPLETED").write_text("")
        (folder / "stats.validation.json").write_text('{"examples": 3}')
        with pytest.raises(
            UserError, match=rf"{in_cache}' lacks the split 'validation': write"
        ):
            data.check_readable(f"{in_cache}_both", "validation", cached=True)
    finally:
        seqio.MixtureRegistry.remove(f"{in_cache}_both")
        seqio.TaskRegistry.remove(other.name)


def _halve_if_even(number: tf.Tensor) -> tf.Tensor:
    if tf.equal(number % 2, 0):  # needs AutoGraph
        number = number // 2
    return number


def test_datasets_are_built_without_autograph_unless_a_preprocessor_needs_it() -> None:
    seen = []

    def add_one(number: tf.Tensor) -> tf.Tensor:
        seen.append(ag_ctx.control_status_ctx().status)
        return number + 1

    with tf.Graph().as_default(), tf.Session() as session:
        plain = data.build_quickly(lambda: tf.data.Dataset.range(4).map(add_one))
        assert seen == [ag_ctx.Status.DISABLED]
        needy = data.build_quickly(lambda: plain.map(_halve_if_even))
        batch = tf.data.make_one_shot_iterator(needy.batch(4)).get_next()
        np.testing.assert_array_equal(session.run(batch), [1, 1, 3, 2])


def test_an_error_of_a_preprocessor_is_still_reported() -> None:
    def fail(number: tf.Tensor) -> tf.Tensor:
        raise TypeError("no such thing")

    with tf.Graph().as_default():
        numbers = tf.data.Dataset.range(4)
        with pytest.raises(TypeError, match="no such thing"):
            data.build_quickly(lambda: numbers.map(fail))


@pytest.mark.parametrize(
    ("bound", "batches", "limit"),
    [
        (None, None, None),
        (None, 2, 2 * BATCH),
        ("-1", None, None),
        ("None", 1, BATCH),
        ("5", None, 5),
        ("5", 2, 5),
        ("100", 2, 2 * BATCH),
    ],
)
def test_the_number_of_examples_is_limited_by_batches_and_by_gin(
    tiny: TinyRun, bound: str | None, batches: int | None, limit: int | None
) -> None:
    params = {} if bound is None else {"mesh_eval_dataset_fn__num_eval_examples": bound}
    assert data.find_limit(make_settings(tiny, **params), batches) == limit
