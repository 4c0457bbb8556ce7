"""The warm-up records, read with message classes that have the fields of TensorFlow Serving."""

from __future__ import annotations

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2

from mtf_switch.serving import warm_up

_FIELD = descriptor_pb2.FieldDescriptorProto
# Message -> (field, number, message of the field or "" for text, repeated?), from
# tensorflow_serving/apis/prediction_log.proto, predict.proto and model.proto.
_MESSAGES = {
    "ModelSpec": [("name", 1, "", False), ("signature_name", 3, "", False)],
    "Entry": [("key", 1, "", False), ("value", 2, "bytes", False)],
    "PredictRequest": [("model_spec", 1, "ModelSpec", False), ("inputs", 2, "Entry", True)],
    "PredictLog": [("request", 1, "PredictRequest", False)],
    "PredictionLog": [("predict_log", 6, "PredictLog", False)],
}


def make_class():
    file = descriptor_pb2.FileDescriptorProto(name="log.proto", package="t", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            added = message.field.add(name=field, number=number)
            added.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            if kind in ("", "bytes"):
                added.type = _FIELD.TYPE_BYTES if kind else _FIELD.TYPE_STRING
            else:
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".t.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.PredictionLog"))


def test_a_request_is_a_prediction_log() -> None:
    # Longer than 127 bytes, so that lengths take two bytes.
    texts = ["a", "é" * 200]
    log = make_class()()
    log.ParseFromString(warm_up.encode_request("model", "score", {"inputs": texts}))
    request = log.predict_log.request
    assert (request.model_spec.name, request.model_spec.signature_name) == ("model", "score")
    ((name, value),) = [(entry.key, entry.value) for entry in request.inputs]
    assert name == "inputs"
    tensor = tf.make_ndarray(tensor_pb2.TensorProto.FromString(value))
    assert [text.decode() for text in tensor] == texts
