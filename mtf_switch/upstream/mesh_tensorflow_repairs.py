"""Repairs of Mesh TensorFlow 0.1.21, without which it cannot be imported or used."""

from __future__ import annotations

import types


def restore_register_tensor_conversion_function() -> None:
    """Restores a symbol that Mesh TensorFlow needs when it is imported.

    TensorFlow 2.13 moved `ops.register_tensor_conversion_function` to another module.
    """
    from tensorflow.python.framework import ops, tensor_conversion_registry

    if not hasattr(ops, "register_tensor_conversion_function"):
        ops.register_tensor_conversion_function = (
            tensor_conversion_registry.register_tensor_conversion_function
        )


def mark_flags_as_parsed(simd_mesh_impl: types.ModuleType) -> None:
    """Keeps Mesh TensorFlow's TPU code from parsing this program's command line.

    That code reads absl flags. If they have not been parsed yet, absl parses `sys.argv` at that
    moment, and fails on every unknown flag.
    """
    del simd_mesh_impl
    import absl.flags

    if not absl.flags.FLAGS.is_parsed():
        absl.flags.FLAGS.mark_as_parsed()
