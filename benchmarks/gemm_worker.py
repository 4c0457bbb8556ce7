"""Times the product of two large float32 matrices on behalf of another process.

`measure.measure_gemm_rates` starts it, with this project's Python for TensorFlow and with that
of another environment for torch. It imports nothing else, so the rate is the library's own. It
prints no versions, and then answers each line with the seconds that one product took.
"""

import json
import sys
import time


def build_product(library, size):
    """Builds a product of two random matrices; returns a function without arguments."""
    if library == "torch":
        import torch

        a, b = torch.randn(size, size), torch.randn(size, size)
        return lambda: torch.mm(a, b)
    import tensorflow as tf

    a, b = tf.random.normal([size, size]), tf.random.normal([size, size])
    # `numpy` waits for the result, and shares its memory.
    return lambda: tf.matmul(a, b).numpy()


def main():
    """Builds the product, and answers the lines of the standard input."""
    product = build_product(sys.argv[1], json.loads(sys.argv[2])["size"])
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        product()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
