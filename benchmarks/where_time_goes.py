"""Prints where the time of a training step goes, from TensorFlow's trace.

    python benchmarks/where_time_goes.py --competitor gather --experts 32

The times of all operations are added up, so on n cores the sum is up to n times the wall time.
"""

from __future__ import annotations

import argparse
import collections
import re
import sys

import measure
import sizes

from mtf_switch.upstream import logs

# An operation belongs to the first part whose pattern is found in its name.
_PARTS = (
    ("optimizer", r"adafactor|_slot_"),
    ("experts: matmuls", r"experts_of_(runs|slots).*MatMul"),
    ("experts: other operations", r"experts_of_|SwitchFFN/w[io]"),
    ("dispatch and combine", r"SwitchFFN/(dispatch|combine)|permute|sort_by|move|where_kept"),
    ("router", r"switch_gating|ranks_by|router|top_k|top_1|SwitchFFN|MoE1D"),
    ("attention", r"Attention"),
    ("dense feed-forward", r"DenseReluDense"),
    ("embedding", r"embedding"),
    ("logits and loss", r"decoder/(einsum|reduce_logsumexp|log|one_hot|sub|mul|exp)|softmax"),
)


def find_part(operation: str) -> str:
    """Returns the part of the step to which an operation belongs."""
    matches = (part for part, pattern in _PARTS if re.search(pattern, operation))
    return next(matches, "other")


def trace_step(competitor: str, setting: sizes.Model) -> list[tuple[str, str, float]]:
    """Traces one training step. Returns (name, type, milliseconds) of each operation."""
    logs.show_errors_only()
    # These imports take seconds, and parsing the options does not need them.
    import step_graphs
    import tensorflow.compat.v1 as tf

    metadata = tf.RunMetadata()
    options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
    run, close = step_graphs.build_step(competitor, setting)
    for _ in range(4):
        run()
    run(options=options, run_metadata=metadata)
    close()
    return [
        (node.node_name, node.timeline_label.split(" = ")[-1].split("(")[0], ms)
        for device in metadata.step_stats.dev_stats
        for node in device.node_stats
        for ms in [node.all_end_rel_micros / 1e3]
    ]


def main(arguments: list[str] | None = None) -> int:
    """Prints the parts and the types of operations that take the most time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--competitor", default="gather", choices=("dense", "gather", "einsum"))
    parser.add_argument("--experts", type=int, default=32)
    options = parser.parse_args(arguments)
    operations = trace_step(options.competitor, sizes.Model(options.experts))
    total = sum(ms for *_, ms in operations)
    for title, key in (("part", lambda o: find_part(o[0])), ("type", lambda o: o[1])):
        spent: collections.Counter = collections.Counter()
        for operation in operations:
            spent[key(operation)] += operation[2]
        rows = [[k, f"{ms:.0f}", f"{ms / total:.0%}"] for k, ms in spent.most_common(12)]
        print(measure.format_table([title, "ms", "share"], rows) + "\n")
    print(f"total: {total:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
