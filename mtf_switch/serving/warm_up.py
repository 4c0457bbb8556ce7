"""The warm-up file of TensorFlow Serving: requests that it answers before it is ready.

Its records are PredictionLog messages, whose Python classes are in a package of their own. This
module writes the few fields that a request needs, in the encoding of protocol buffers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

# Where TensorFlow Serving looks for it, in the folder of a version.
FILE = "assets.extra/tf_serving_warmup_requests"

# The numbers of the fields in tensorflow_serving/apis/*.proto.
_PREDICT_LOG = 6  # of PredictionLog
_REQUEST = 1  # of PredictLog
_MODEL_SPEC, _INPUTS = 1, 2  # of PredictRequest
_NAME, _SIGNATURE_NAME = 1, 3  # of ModelSpec
_KEY, _VALUE = 1, 2  # of an entry of a map


def encode_request(model: str, signature: str, inputs: Mapping[str, Sequence[str]]) -> bytes:
    """Returns a serialized PredictionLog.

    Args:
      model: The name of the model.
      signature: The name of the signature.
      inputs: The texts of each input.
    """
    spec = _field(_NAME, model.encode()) + _field(_SIGNATURE_NAME, signature.encode())
    request = _field(_MODEL_SPEC, spec)
    for name, texts in inputs.items():
        tensor = tf.make_tensor_proto(list(texts), tf.string).SerializeToString()
        entry = _field(_KEY, name.encode()) + _field(_VALUE, tensor)
        request += _field(_INPUTS, entry)
    return _field(_PREDICT_LOG, _field(_REQUEST, request))


def _field(number: int, content: bytes) -> bytes:
    """A field with a length: its number and wire type 2, the length, and the content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
