"""A vocabulary that keeps Mesh TensorFlow from detokenizing inside the graph."""

from __future__ import annotations

from typing import Any


class HostDecodedVocabulary:
    """A vocabulary without `decode_tf`, so that Mesh TF returns ids and the host decodes.

    If a vocabulary has `decode_tf`, Mesh TF detokenizes inside the graph. Then scoring fails on
    a CPU, and predictions are written as literal `b'...'`.
    """

    def __init__(self, vocabulary: Any):
        self._vocabulary = vocabulary

    def __getattr__(self, name: str) -> Any:
        # copy and pickle ask for attributes before `_vocabulary` is set.
        if name in ("decode_tf", "_vocabulary"):
            raise AttributeError(name)
        return getattr(self._vocabulary, name)
