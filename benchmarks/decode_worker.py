"""Times decoding of one checkout of this project on behalf of another process.

`decode.py` starts it with the checkout in PYTHONPATH. It prints its versions, and then answers
each line of input with the seconds that decoding one batch took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from mtf_switch.upstream import logs

_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def build_decoding(setting: Mapping[str, Any]) -> Callable[[], float]:
    """Builds decoding of random inputs by a model with random weights.

    Args:
      setting: The fields of sizes.Model, "beams", and "clock": "wall" or "cpu".

    Returns:
      A function that decodes one batch to its full length, and returns the seconds it took.
    """
    import numpy as np
    import sizes
    import step_graphs
    import tensorflow.compat.v1 as tf

    from mtf_switch.config import gin_config

    beams, clock = setting["beams"], _CLOCKS[setting["clock"]]
    fields = {k: v for k, v in setting.items() if k not in ("beams", "clock")}
    model = sizes.Model(**fields)
    step_graphs.configure_competitor("dense" if model.experts == 1 else "gather", model)
    # With tied embeddings, random weights repeat one token forever.
    gin_config.bind("Unitransformer.shared_embedding_and_softmax_weights", False)
    for name, value in {
        "beam_size": beams,
        "max_decode_length": model.targets,
        "decode_length_multiplier": 0.0,
        "decode_length_constant": float(model.targets),
    }.items():
        gin_config.bind(f"Bitransformer.decode.{name}", value)
    shape = (model.batch_size, model.inputs)
    mode = tf.estimator.ModeKeys.PREDICT
    spec, features, session, _ = step_graphs.start(model.vocabulary, mode, {"inputs": shape})
    rng = np.random.default_rng(0)

    def step() -> float:
        # 0 is padding, and 1 is the end of a sequence.
        tokens = rng.integers(2, model.vocabulary, shape)
        start = clock()
        outputs = session.run(spec.predictions["outputs"], {features["inputs"]: tokens})
        seconds = clock() - start
        if np.all(np.any(outputs == 1, axis=-1)):
            raise ValueError("every sequence ended early, and the loop with them")
        return seconds

    return step


def main() -> None:
    """Builds the decoding, and answers the lines of the standard input."""
    logs.show_errors_only()
    step = build_decoding(json.loads(sys.argv[1]))
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        print(step(), flush=True)


if __name__ == "__main__":
    main()
