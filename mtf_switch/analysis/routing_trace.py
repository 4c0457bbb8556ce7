"""The routing trace: which token went to which expert, as files.

    TRACE/trace.json                  what was traced: model, task, layers, texts of the tokens
    TRACE/step-400/encoder-000.npz    the first 65,536 tokens that the encoder read
    TRACE/step-400/decoder-000.npz    the first ones that the decoder read

An npz file has one value per token and column (`_COLUMNS`), and for each Switch layer of the
stack three arrays [tokens, C]:

    expert/LAYER  int16    the experts that the token may visit, the first choice first
    gate/LAYER    float32  the weight of each expert's output
    kept/LAYER    bool     whether the token got a slot of that expert; without any, the layer
                           dropped the token

C is 1 for SwitchRouter, k for TopKRouter, and the number of stages for NoTokenLeftBehindRouter.
The files are written while the model runs, so memory does not grow with the number of tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mtf_switch import whole_file
from mtf_switch.errors import UserError, name_program
from mtf_switch.model_dirs import checkpoint_files

Segment = Literal["encoder", "decoder"]
SEGMENTS: tuple[Segment, ...] = ("encoder", "decoder")
TOKENS_PER_FILE = 2**16
FILE = "trace.json"
# Increase this whenever the files change their meaning.
FORMAT_VERSION = 1

# Column -> dtype. "token" is the id that the stack reads; "target" the id that a decoder has to
# predict next, and 0 in the encoder; "loss" its cross-entropy in nats; "example" the number of
# the example, "row" its row in the batch, "position" the place in the example, from 0;
# "domain" an index into `TraceInfo.domains`.
_COLUMNS = {
    "token": np.int32,
    "target": np.int32,
    "loss": np.float32,
    "example": np.int32,
    "row": np.int32,
    "position": np.int32,
    "domain": np.int16,
}
_OF_LAYER = {"expert": np.int16, "gate": np.float32, "kept": np.bool_}


@dataclasses.dataclass(frozen=True)
class TraceInfo:
    """What a trace is of: the content of trace.json.

    Attributes:
      model: Absolute path of the model_dir.
      weights: Step -> SHA-256 of the index of its checkpoint, which differs between models.
      request: What the user asked for: task, split, domain, tokens, checkpoint_steps, and
        changed_bindings (parameter -> value), see `config.changed_bindings.find`.
      domains: The domains, in the order of the column "domain".
      batch_size: Examples in a batch.
      lengths: Segment -> positions of an example, padding included.
      experts: Layer -> E, in the order of the model.
      group_sizes: Layer -> S, the tokens of a group, padding included.
      tokens: Segment -> number of tokens.
      pieces: Token id -> its text, for the ids in the trace.
      digest: SHA-256 of the token ids, to find out whether two traces have the same tokens.
      routers: Step -> layer -> the metrics of the router (entropy, gate, ...), see
        `RouterMetrics`.
      tokens_per_file: TOKENS_PER_FILE when the trace was written.
      format: FORMAT_VERSION.
    """

    model: str
    weights: dict[int, str]
    request: dict[str, Any]
    domains: list[str]
    batch_size: int
    lengths: dict[str, int]
    experts: dict[str, int]
    group_sizes: dict[str, int]
    tokens: dict[str, int]
    pieces: dict[int, str]
    digest: str
    routers: dict[int, dict[str, dict[str, float]]]
    tokens_per_file: int
    format: int = FORMAT_VERSION

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, in order."""
        return sorted(self.weights)

    def layers(self, segment: Segment) -> list[str]:
        """Returns the Switch layers of a stack, in order."""
        return [layer for layer in self.experts if segment_of(layer) == segment]


def segment_of(layer: str) -> Segment:
    """Returns the stack of a layer. A language model's only stack counts as a decoder."""
    return "encoder" if layer.split("/")[0] == "encoder" else "decoder"


class SegmentWriter:
    """Writes the tokens of one stack into files of `TOKENS_PER_FILE` tokens."""

    def __init__(self, folder: str, segment: Segment):
        """Makes the writer.

        Args:
          folder: The folder of one checkpoint. It must exist.
          segment: The stack.
        """
        self._folder, self._segment = folder, segment
        self._parts: list[dict[str, np.ndarray]] = []
        self._waiting = self._files = 0
        self._hash = hashlib.sha256()
        self.tokens = 0
        self.ids: set[int] = set()

    @property
    def digest(self) -> str:
        """SHA-256 of the ids of all tokens so far."""
        return self._hash.hexdigest()

    def add(self, columns: dict[str, np.ndarray]) -> None:
        """Adds tokens.

        Args:
          columns: Column -> [tokens] or [tokens, C].
        """
        count = len(columns["token"])
        self._hash.update(np.ascontiguousarray(columns["token"], np.int32).tobytes())
        self.ids.update(*(np.unique(columns[name]).tolist() for name in ("token", "target")))
        self._parts.append(columns)
        self.tokens += count
        self._waiting += count
        while self._waiting >= TOKENS_PER_FILE:
            self._write(TOKENS_PER_FILE)

    def close(self) -> None:
        """Writes the tokens that wait."""
        if self._waiting:
            self._write(self._waiting)

    def _write(self, count: int) -> None:
        whole = {
            name: np.concatenate([part[name] for part in self._parts])
            for name in self._parts[0]
        }
        file = os.path.join(self._folder, f"{self._segment}-{self._files:03d}.npz")
        with whole_file.open_for_writing(file, "wb") as stream:
            np.savez_compressed(
                stream,
                **{name: _narrow(name, values[:count]) for name, values in whole.items()},
            )
        self._parts = [{name: values[count:] for name, values in whole.items()}]
        self._waiting -= count
        self._files += 1


def _narrow(column: str, values: np.ndarray) -> np.ndarray:
    kind = column.split("/")[0]
    return values.astype(_OF_LAYER[kind] if "/" in column else _COLUMNS[column])


@dataclasses.dataclass(frozen=True)
class RoutingTrace:
    """A trace in a folder; its columns are read when they are asked for.

    Attributes:
      folder: The folder.
      info: What it is of.
    """

    folder: str
    info: TraceInfo

    @classmethod
    def open(cls, folder: str) -> RoutingTrace:
        """Opens the trace in a folder.

        Raises:
          UserError: If there is none, or it cannot be read.
        """
        path = os.path.join(folder, FILE)
        if not os.path.isfile(path):
            raise UserError(
                f"{folder} holds no trace: there is no {FILE}. Make one with {name_program()} "
                "experts --trace_only."
            )
        try:
            return cls(folder, _parse_info(json.loads(whole_file.read_text(path))))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"The trace {path} cannot be read ({error}). It is damaged, or another version "
                f"wrote it. Make it again with {name_program()} experts --overwrite."
            ) from error

    def column(self, step: int, segment: Segment, name: str) -> np.ndarray:
        """Returns one value for each token of a stack, in the order of the examples.

        Args:
          step: Step of the checkpoint.
          segment: The stack.
          name: A column, such as "token" or "expert/encoder/block_000/layer_001".

        Returns:
          [tokens], or [tokens, C] for the arrays of a layer.

        Raises:
          UserError: If a file is missing or damaged.
        """
        parts = []
        for file in self._files(step, segment):
            path = os.path.join(self.folder, f"step-{step}", file)
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    parts.append(arrays[name])
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise UserError(
                    f"The trace {path} cannot be read ({error}). Make it again with "
                    f"{name_program()} experts --overwrite."
                ) from error
        return np.concatenate(parts) if parts else np.zeros([0], np.int32)

    def first_choice(self, step: int, layer: str) -> np.ndarray:
        """Returns the expert that each token chose first, before capacity: [tokens] int16."""
        return self.column(step, segment_of(layer), f"expert/{layer}")[:, 0]

    def _files(self, step: int, segment: Segment) -> Sequence[str]:
        count = -(-self.info.tokens[segment] // self.info.tokens_per_file)
        return [f"{segment}-{number:03d}.npz" for number in range(count)]


def check_is_of(trace: RoutingTrace, model_dir: str, fix: str) -> None:
    """Checks that a trace is of the checkpoints of a model_dir, as far as it still has them.

    All of them are compared: runs of one seed begin with the same weights.

    Args:
      trace: The trace.
      model_dir: The model_dir.
      fix: What the user can do if it is not.

    Raises:
      UserError: If it is of another model.
    """
    paths = {s: os.path.join(model_dir, f"model.ckpt-{s}") for s in trace.info.steps}
    there = {s: path for s, path in paths.items() if whole_file.exists(f"{path}.index")}
    others = [
        s for s in there if checkpoint_files.fingerprint(there[s]) != trace.info.weights[s]
    ]
    if others:
        reason = f"with other weights at step {others[0]} than {model_dir} has"
    elif not there and whole_file.make_absolute(model_dir) != trace.info.model:
        reason = f"and {model_dir} has none of its checkpoints"
    else:
        return
    raise UserError(
        f"The trace {trace.folder} is of another model: it was made from {trace.info.model}, "
        f"{reason}. {fix}"
    )


def write_info(folder: str, info: TraceInfo) -> None:
    """Writes trace.json, which makes a trace complete."""
    whole_file.write_text(
        os.path.join(folder, FILE), json.dumps(dataclasses.asdict(info), indent=1) + "\n"
    )


def _parse_info(content: dict[str, Any]) -> TraceInfo:
    info = TraceInfo(**content)
    if info.format != FORMAT_VERSION:
        raise ValueError(
            f"its format is {info.format}, and this version reads {FORMAT_VERSION}"
        )
    return dataclasses.replace(
        info,
        weights={int(step): value for step, value in info.weights.items()},
        routers={int(step): value for step, value in info.routers.items()},
        pieces={int(token): text for token, text in info.pieces.items()},
    )
