"""Every fine-tuning task of the paper, end to end: tokens, two steps, decoding, scores."""

from __future__ import annotations

from pathlib import Path

import gin
import numpy as np
import pytest
import seqio
import tensorflow.compat.v1 as tf
import tfds_examples
from golden_texts import GOLDEN_TEXTS
from tiny_run import PARAMS, TinyRun, faster

import tasks
from mtf_switch.config import bound_settings, gin_config
from mtf_switch.downstream import decoding, evaluation_sets, task_metrics
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.runs import estimator, registered_tasks
from mtf_switch.runs.run import Run
from tasks import tfds_data

pytestmark = pytest.mark.slow

BATCH = 4
LENGTHS = {"inputs": 48, "targets": 16}
MIXTURE = "mtf_switch_test_every_task"


@pytest.fixture(scope="module")
def every_task(tiny: TinyRun, tfds_dir: Path, text_vocabulary: Path, tmp_path_factory):
    """A tiny Switch Transformer that has seen two batches of each task.

    Gives the run, its steps and its configuration.
    """
    model_dir = tmp_path_factory.mktemp("every") / "run"
    with tfds_examples.divide_closed_book():
        params = {
            **PARAMS,
            "MIXTURE_NAME": repr(MIXTURE),
            "utils.run.batch_size": str(BATCH),
            "utils.run.sequence_length": repr(LENGTHS),
            "utils.run.learning_rate_schedule": "0.001",
            "tfds_data.data_dir": repr(str(tfds_dir)),
            "task_vocabulary.source": repr(str(text_vocabulary)),
        }
        gin_config.parse([str(tiny.gin_file)], [f"{k} = {v}" for k, v in params.items()])
        tasks.register()
        seqio.MixtureRegistry.remove(MIXTURE)
        seqio.MixtureRegistry.add(MIXTURE, list(GOLDEN_TEXTS), default_rate=1.0)
        settings = bound_settings.read_settings()
        run = Run(settings, registered_tasks.prepare_task(MIXTURE), str(model_dir))
        config = gin_config.to_text()
        tfds_data.check_prepared(MIXTURE)
        trained = [n for n in GOLDEN_TEXTS if "train" in seqio.TaskRegistry.get(n).splits]
        steps = 2 * len(trained)
        with faster():
            runner = estimator.build(run)
            runner.train(lambda params: _two_batches_of_each(trained), max_steps=steps)
        yield run, steps, config
    seqio.MixtureRegistry.remove(MIXTURE)
    gin.clear_config()
    tasks.register()


@pytest.fixture(scope="module")
def sets(every_task) -> list[evaluation_sets.EvaluationSet]:
    """One split of each task with metrics."""
    run, *_ = every_task
    found = []
    for name in GOLDEN_TEXTS:
        task = seqio.TaskRegistry.get(name)
        if task.predict_metric_fns:
            split = next(s for s in ("validation", "test", "train") if s in task.splits)
            found += evaluation_sets.load_tasks([task], run.settings, split)
    return found


def _two_batches_of_each(names: list[str]) -> tf.data.Dataset:
    """Packs and batches all tasks in turn, as mesh_train_dataset_fn does for one task."""
    from t5.models import mesh_transformer

    batches = None
    for name in names:
        dataset = mesh_transformer.mesh_train_dataset_fn(name, LENGTHS, seed=0, pack=False)
        dataset = dataset.repeat().batch(BATCH, drop_remainder=True).take(2)
        batches = dataset if batches is None else batches.concatenate(dataset)
    return batches


def test_two_steps_of_each_task_were_trained_and_moved_the_weights(every_task) -> None:
    run, steps, _ = every_task
    latest = saved_checkpoints.find_latest(run.model_dir)
    assert saved_checkpoints.parse_step(latest) == steps
    assert steps == 2 * 29  # tasks with a training split
    reader = tf.train.load_checkpoint(latest)
    for name in reader.get_variable_to_shape_map():
        assert np.isfinite(reader.get_tensor(name)).all(), name


def test_each_task_with_metrics_decodes_and_scores(every_task, sets) -> None:
    run, _, config = every_task
    gin_config.parse([], [], gin_config.SavedText(config, skip_unknown=True))
    gin.bind_parameter("Bitransformer.decode.max_decode_length", 6)
    assert len(sets) >= 28
    with faster():
        texts = list(decoding.decode(sets, run, saved_checkpoints.find_latest(run.model_dir)))
    assert len(texts) == sum(len(part.examples) for part in sets)
    for part, mine in evaluation_sets.split_by_set(sets, texts):
        found = task_metrics.compute_metrics(part.task, part.targets, part.postprocess(mine))
        assert found
        assert all(np.isfinite(value) for value in found.values()), part.task.name


def test_the_right_answers_score_full_marks(sets) -> None:
    """If the answers are the texts of the targets, every metric has its best value."""
    for part in sets:
        name = part.task.name
        right = [part.get_text(i, "targets") for i in range(len(part.examples))]
        found = task_metrics.compute_metrics(part.task, part.targets, part.postprocess(right))
        if name == "super_glue_wsc_v102_simple_eval":
            # The targets name the candidate, whether it is right or not. One of the two is
            # right.
            assert found == {"accuracy": 50.0}
        elif name == "super_glue_cb_v102":
            # Two of three classes occur: their F1 is 1, and that of the third is 0.
            assert found["accuracy"] == 100.0
        else:
            assert all(value == pytest.approx(100.0) for value in found.values()), name
