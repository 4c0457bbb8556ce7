"""Times exported models: seconds of an answer to 1 and to 16 texts, sparse over dense.

    python benchmarks/serving.py served/switch/1 served/t5/1

Each process loads one export and answers requests of one kind. Processes of the exports take
turns, so that the load of the machine is the same for both. The last export is the base of the
ratios.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np

_WORKER = """
import json, sys, time
import tensorflow as tf, tensorflow_text
path, batch, requests, text = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
answer = tf.saved_model.load(path).signatures["serving_default"]
texts = tf.constant([text] * batch)
seconds = []
for _ in range(requests + 5):
    start = time.perf_counter()
    answer(inputs=texts)["scores"].numpy()
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds[5:]))
"""


def time_export(path: str, batch: int, requests: int, text: str) -> list[float]:
    """Returns the seconds of each request, without the first five, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _WORKER, path, str(batch), str(requests), text],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> int:
    """Times the exports, and prints an object for each export and batch size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("exports", nargs="+", help="folders of versions; the last is the base")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each export")
    parser.add_argument("--requests", type=int, default=100, help="requests of each process")
    parser.add_argument("--text", default="Returns the <extra_id_0> of the <extra_id_1>.")
    options = parser.parse_args(arguments)
    for batch in options.batches:
        seconds: dict[str, list[list[float]]] = {path: [] for path in options.exports}
        for _ in range(options.rounds):
            for path, found in seconds.items():
                found.append(time_export(path, batch, options.requests, options.text))
        base = np.median(seconds[options.exports[-1]], axis=1)
        for path, found in seconds.items():
            ratios = np.median(found, axis=1) / base
            result = {
                "export": path,
                "batch": batch,
                "p50_ms": 1e3 * float(np.percentile(found, 50)),
                "p95_ms": 1e3 * float(np.percentile(found, 95)),
                "p50_over_base": float(np.median(ratios)),
                "of_rounds": [round(float(ratio), 3) for ratio in ratios],
            }
            print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
