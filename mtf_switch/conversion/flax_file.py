"""The weights of transformers' flax models, `flax_model.msgpack`, read like safetensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy
import numpy as np

from mtf_switch.errors import UserError

FILE = "flax_model.msgpack"

_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
# The last part of a name in flax -> (that of torch, whether the matrix is transposed).
_ENDS = {
    "kernel": ("weight", True),
    "embedding": ("weight", False),
    "weight": ("weight", False),
}


class FlaxFile:
    """A flax_model.msgpack with the names and the orientation of torch.

    Its methods are those of a file that `safetensors.safe_open` returns.

    The whole file is in memory while this object exists.
    """

    def __init__(self, path: str):
        """Reads the file. MessagePack is data: nothing in it is executed.

        Raises:
          UserError: If the file is damaged, or has names that no model of flax has.
        """
        from flax import serialization

        try:
            with open(path, "rb") as file:
                tree = serialization.msgpack_restore(file.read())
            self._tensors = {
                name: array for name, array in _flatten(tree.get("params", tree), ())
            }
        # msgpack raises errors of many types for damaged files.
        except Exception as error:
            raise UserError(
                f"{path} cannot be read: {error!r}. It is damaged, or its download did not "
                "finish."
            ) from error

    def keys(self) -> list[str]:
        """Returns the names of the tensors."""
        return list(self._tensors)

    def get_tensor(self, name: str) -> np.ndarray:
        """Returns a tensor."""
        return np.ascontiguousarray(self._tensors[name])

    def get_slice(self, name: str) -> _Header:
        """Returns the shape and the dtype of a tensor."""
        return _Header(self._tensors[name])

    def metadata(self) -> dict[str, str]:
        """Returns no metadata, because the format has none."""
        return {}


class _Header:
    """Shape and dtype of a tensor, as safetensors names them."""

    def __init__(self, array: np.ndarray):
        self._array = array

    def get_shape(self) -> list[int]:
        return list(self._array.shape)

    def get_dtype(self) -> str:
        return _DTYPES.get(self._array.dtype.name, self._array.dtype.name)


def _flatten(tree: Mapping[str, Any], parents: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yields (name, array) with torch's names."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, (*parents, key))
            continue
        end, is_transposed = _ENDS[key]
        array = np.asarray(value)
        yield ".".join((*parents, end)), array.T if is_transposed else array
