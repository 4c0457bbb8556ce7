"""Times the input pipeline of training: batches alone, and steps of switch_tiny with them.

    python benchmarks/pipeline.py --json > pipeline.json

`corpus` are the batches of the embedded text as `run_switch.py train` reads them, `seqio` the
same batches by seqio and T5, example by example, and `one_batch` one of them again and again.
`cache` reads the documents' tokens from seqio's cache, and `tfds` the documents from a data set
of TFDS, both by seqio and T5. Steps take turns in one session, and differ only in the pipeline.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import measure
import timing

from mtf_switch.upstream import logs

PIPELINES = ("one_batch", "corpus", "seqio", "cache", "tfds")
_BY_SEQIO = PIPELINES[2:]
_MODEL = ("models/switch_tiny.gin", "runs/demo.gin")
_WARM_UP = 20


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the options."""
    parser = measure.make_parser(__doc__.split("\n", 1)[0], PIPELINES)
    parser.set_defaults(competitors=list(PIPELINES), repetitions=60)
    parser.add_argument("--batches", type=int, default=200, help="batches read alone")
    options = parser.parse_args(arguments)
    measure.check_options(options, parser)
    if options.batches < 1:
        parser.error("--batches must be at least 1")
    return options


def measure_pipelines(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a result for each pipeline."""
    logs.show_errors_only()
    # These imports take seconds, and parsing the options does not need them.
    import tensorflow.compat.v1 as tf

    from mtf_switch.config import gin_config
    from mtf_switch.runs import configured_run

    gin_config.parse(list(_MODEL), ["run_config.seed.value = 0"])
    with tempfile.TemporaryDirectory() as folder:
        run = configured_run.make_run(folder)
        # The files are written in eager mode, and the steps are those of a graph.
        tasks = {name: _prepare_task(name, run) for name in options.competitors}
        with tf.Graph().as_default():
            tf.set_random_seed(0)
            readers, steps, session = _build(run, tasks)
        reading = {name: _time_reading(read, options.batches) for name, read in readers.items()}
        competitors = {
            name: timing.time_in_this_process(step, lambda: None)
            for name, step in steps.items()
        }
        results = measure.compare_competitors(
            competitors, options.repetitions, "steps", base="one_batch"
        )
        session.close()
    for result in results:
        yield {**result, **reading[result["competitor"]], "batches": options.batches}


def _build(
    run: Any, tasks: dict[str, str]
) -> tuple[dict[str, Callable], dict[str, Callable], Any]:
    """Builds one training step, and returns functions that read a batch or run the step."""
    import mesh_tensorflow as mtf
    import tensorflow.compat.v1 as tf

    from mtf_switch.runs import estimator

    tf.train.get_or_create_global_step()
    datasets = {name: _make_dataset(name, task, run.settings) for name, task in tasks.items()}
    iterators = {name: tf.data.make_one_shot_iterator(d) for name, d in datasets.items()}
    handle = tf.placeholder(tf.string, [])
    first = next(iter(datasets.values()))
    chosen = tf.data.Iterator.from_string_handle(
        handle, tf.data.get_output_types(first), tf.data.get_output_shapes(first)
    )
    runner = estimator.build(run)
    mode = tf.estimator.ModeKeys.TRAIN
    spec = runner._call_model_fn(dict(chosen.get_next()), None, mode, runner.config)
    hooks = [*spec.training_hooks, *spec.training_chief_hooks]
    (restore,) = (hook for hook in hooks if isinstance(hook, mtf.MtfRestoreHook))
    restore.begin()
    session = tf.Session(config=runner.config.session_config)
    session.run(tf.global_variables_initializer())
    restore.after_create_session(session, None)
    batches = {name: iterator.get_next() for name, iterator in iterators.items()}
    handles = {name: session.run(it.string_handle()) for name, it in iterators.items()}
    readers = {name: lambda batch=batch: session.run(batch) for name, batch in batches.items()}
    steps = {
        name: lambda value=value: session.run(spec.train_op, {handle: value})
        for name, value in handles.items()
    }
    return readers, steps, session


def _prepare_task(name: str, run: Any) -> str:
    """Makes the files that a pipeline reads. Returns the name of the task that reads them."""
    import prepared_text
    import seqio

    task = seqio.get_mixture_or_task(run.settings.task)
    if name == "tfds":
        return prepared_text.add_tfds_task(task, f"{run.model_dir}/tfds")
    if name == "cache":
        prepared_text.write_cache(task, f"{run.model_dir}/cache")
        seqio.add_global_cache_dirs([f"{run.model_dir}/cache"])
    return task.name


def _make_dataset(name: str, task: str, settings: Any) -> Any:
    import tensorflow.compat.v1 as tf
    from t5.models import mesh_transformer

    from mtf_switch.runs import data, training_data

    if name in _BY_SEQIO:
        examples = data.build_quickly(
            lambda: mesh_transformer.mesh_train_dataset_fn(
                task, settings.sequence_length, use_cached=name == "cache"
            )
        )
        batches = examples.repeat().batch(settings.batch_size, drop_remainder=True)
        return batches.prefetch(tf.data.experimental.AUTOTUNE)
    batches = training_data.make_train_input_fn(settings, 0)(None)
    return batches.take(1).cache().repeat() if name == "one_batch" else batches


def _time_reading(read: Callable[[], Any], batches: int) -> dict[str, float]:
    for _ in range(_WARM_UP):
        read()
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        read()
    return {
        "read_cpu_seconds": (time.process_time() - cpu) / batches,
        "batches_per_second": batches / (time.perf_counter() - start),
    }


def format_results(results: list[dict[str, Any]]) -> str:
    """Formats a table with a row for each pipeline."""
    rows = []
    for result in results:
        ratio = spread = ""
        if result["ratio_to_one_batch"]:
            ratio = f"{result['ratio_to_one_batch']:.2f}"
            low, high = result["ratio_quartiles"]
            spread = f"{low:.2f}-{high:.2f}"
        rows.append(
            [
                result["competitor"],
                f"{result['batches_per_second']:,.0f}",
                f"{1e3 * result['read_cpu_seconds']:.2f}",
                f"{1e3 * result['seconds']:.1f}",
                ratio,
                spread,
            ]
        )
    headers = [
        "pipeline",
        "batches/s",
        "CPU ms a batch",
        "step ms",
        "of one batch",
        "quartiles",
    ]
    return measure.format_table(headers, rows)


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and returns its exit code."""
    return measure.run_benchmark(
        "pipeline", parse_options(arguments), measure_pipelines, format_results
    )


if __name__ == "__main__":
    sys.exit(main())
