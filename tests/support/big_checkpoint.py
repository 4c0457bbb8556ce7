"""A large random checkpoint, and a conversion that measures how much memory it takes.

`big_checkpoint.py SRC_FORMAT DST_FORMAT SRC DST LIMIT` converts with the private memory of the
process limited to LIMIT MiB, and prints {"anonymous": ..., "before": ...} in MiB: the peak of
the memory that no file backs, and what it was once all modules were imported.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time

import numpy as np


def write_checkpoint(folder: str, blocks: int, experts: int) -> int:
    """Writes a Switch Transformer with Switch-Base's widths as hf; returns its bytes."""
    from mtf_switch.conversion.architecture import Architecture
    from mtf_switch.conversion.hf_checkpoint import HfTarget

    sparse = tuple(i % 2 == 1 for i in range(blocks))
    architecture = Architecture(
        vocab_size=32128,
        d_model=768,
        d_kv=64,
        d_ff=3072,
        num_heads=12,
        encoder=sparse,
        decoder=sparse,
        num_experts=experts,
        activations=("relu",),
        tied_logits=True,
    )
    noise = np.random.default_rng(0).standard_normal(32128 * 768, np.float32)
    target = HfTarget(folder, architecture, np.dtype(np.float32), 0)
    for ref in architecture.tensors_by_expert():
        shape = architecture.shape(ref)
        target.write_tensor(ref, noise[: int(np.prod(shape))].reshape(shape))
    target.finish()
    return 4 * architecture.parameters


def _anonymous_mib() -> float:
    """The memory of this process that no file backs, in MiB."""
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["RssAnon"].split()[0]) / 1024


def measure(source_format: str, target_format: str, source: str, target: str, limit: int):
    """Converts with private memory limited to `limit` MiB, and prints the peak."""
    from mtf_switch.conversion import convert, formats
    from mtf_switch.upstream import logs

    logs.show_errors_only()
    for format in (source_format, target_format):
        formats.load_classes(format)
    before = _anonymous_mib()
    peak, done = [before], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], _anonymous_mib())
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit * 2**20, limit * 2**20))
    convert.convert_checkpoint(
        convert.ConversionRequest(source_format, target_format, source, target)
    )
    done.set()
    print(json.dumps({"anonymous": peak[0], "before": before}))


if __name__ == "__main__":
    measure(*sys.argv[1:5], int(sys.argv[5]))
