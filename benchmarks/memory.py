"""Measures the memory of whole training steps, of sparse models and a dense one.

    python benchmarks/memory.py --experts 8 32 128 --competitors dense gather

The models, their steps and the competitors are those of train_step.py. Each has a process of
its own. Two peaks are reported. That of the process is its largest resident set: the program,
the building of the graph, the weights and the steps. That of the tensors of a step is the most
that they take at the same time, without weights; it is known for TensorFlow only.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import measure
import sizes
import timing
import tqdm
import train_step

from mtf_switch import machine
from mtf_switch.upstream import logs


def measure_memory(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a result for each competitor; for sparse ones, one for each number of experts.

    Raises:
      UserError: If the sizes do not divide.
    """
    cases = train_step.list_cases(options)
    for name, setting in tqdm.tqdm(cases, desc="models", leave=False):
        measured = measure_in_another_process(name, setting, options)
        # The command of this process, in place of that of the other.
        yield measured | dataclasses.asdict(setting) | {"command": measure.format_command()}


def measure_in_another_process(
    name: str, setting: sizes.Model, options: argparse.Namespace
) -> dict[str, Any]:
    """Measures a competitor in a process of its own, because a peak never goes down.

    Returns:
      The peaks in bytes, "process_bytes" and "step_bytes" (None if unknown), and the
      circumstances.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_in_this_process, (name, setting, options))


def _measure_in_this_process(
    name: str, setting: sizes.Model, options: argparse.Namespace
) -> dict[str, Any]:
    if name.startswith("hf"):
        sizes_of_model = dataclasses.asdict(setting)
        competitor = timing.time_in_another_process(options.hf_python, "step", sizes_of_model)
        for _ in range(options.repetitions):
            competitor.seconds()
        competitor.close()
        process, step = _read_peak_of_children(), None
    else:
        logs.show_errors_only()
        # This import takes seconds, and transformers does not need it.
        import step_graphs

        run, close = step_graphs.build_step(name, setting)
        for _ in range(options.repetitions):
            run()
        process, step = machine.read_peak_memory(), _trace_peak(run)
        competitor = timing.time_in_this_process(run, close)
        close()
    return {
        "competitor": name,
        "process_bytes": process,
        "step_bytes": step,
        **measure.collect_provenance({name: competitor}),
    }


def _read_peak_of_children() -> int:
    """Returns the largest resident set of the children, or of this process if that was larger.

    In bytes; Linux counts units of 1024. This process is small if its child is a competitor.
    """
    return 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def _trace_peak(run: Callable[..., None]) -> int:
    """Returns the most bytes that the tensors of a step take at the same time."""
    import tensorflow.compat.v1 as tf

    metadata = tf.RunMetadata()
    run(options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), run_metadata=metadata)
    return find_peak(
        (record.alloc_micros, record.alloc_bytes)
        for device in metadata.step_stats.dev_stats
        for node in device.node_stats
        for allocator in node.memory
        for record in allocator.allocation_records
    )


def find_peak(changes: Iterable[tuple[int, int]]) -> int:
    """Returns the largest sum over time.

    Args:
      changes: (time, change) in any order, such as (5, -400) where 400 bytes are freed. What is
        freed at a time counts before what is allocated at the same time.
    """
    return max(itertools.accumulate(change for _, change in sorted(changes)), default=0)


def format_results(results: list[dict[str, Any]]) -> str:
    """Formats a table with a row for each competitor."""
    rows = [
        [
            result["competitor"],
            str(result["experts"]),
            f"{result['process_bytes'] / 1e9:.2f}",
            "" if result["step_bytes"] is None else f"{result['step_bytes'] / 1e9:.2f}",
        ]
        for result in results
    ]
    headers = ["competitor", "experts", "process, GB", "tensors of a step, GB"]
    return measure.format_table(headers, rows)


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and returns its exit code."""
    options = train_step.parse_options(arguments, __doc__)
    return measure.run_benchmark("memory", options, measure_memory, format_results)


if __name__ == "__main__":
    sys.exit(main())
