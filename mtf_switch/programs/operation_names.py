"""The names of operations in the messages of XLA and TensorFlow, and their layers."""

from __future__ import annotations

import re


def find_operation(message: str) -> str:
    """Returns the operation that a message of XLA or TensorFlow names, or ""."""
    match = re.search(r'op_name="([^"]+)"|\{\{node ([^}]+)\}\}|loc\("([^"]+)"', message)
    return next(filter(None, match.groups())) if match else ""


def find_layer(operation: str) -> str:
    """Returns the layer of an operation, such as "encoder/block_000/layer_001/SwitchFFN".

    Returns "" for an operation outside the layers, such as one of the optimizer.
    """
    match = re.search(r"(?:\w+/)?block_\d+/layer_\d+(?:/[A-Za-z_]\w*(?=/))?", operation)
    return match[0] if match else ""
