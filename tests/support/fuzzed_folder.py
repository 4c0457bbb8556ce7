"""Runs random command lines in folders, and reports how they end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import traceback
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import random_checkpoints
from tiny_run import MODEL, TinyRun

# A command takes less than a second of CPU time up to its model, and a few up to its graph.
CPU_SECONDS = 60
# It may also wait for something. The machine may be busy.
SECONDS = 300

# Files in the folder of each command line, besides tiny.gin.
FILES = {
    "lines.txt": b"ba do\nki lu me\n",
    "empty.txt": b"",
    "binary.bin": bytes(range(256)),
    "itself.gin": b"include 'itself.gin'\n",
    "imports.gin": b"import no_such_module\n",
    "data.json": b'{"steps": 5}',
    "examples.tsv": b"inputs\ttargets\n" + b"".join(b"ba %d\tlu\n" % i for i in range(50)),
    "examples.jsonl": b'{"inputs": "ba", "targets": ["lu", "me"]}\n',
}
_LOG = b"step,seconds,loss,dropped_fraction,nats_per_token\r\n3,1.0,2.0,0.1,2.0\r\n"
# A task that has a metric.
TASK = "winogrande_xl"
_SCORES = {
    "step": 3,
    "examples": {TASK: 2},
    "scores": {TASK: {"accuracy": 50.0}},
    "averages": {},
    "examples_of_split": {TASK: 2},
    "decoding": {"beam_size": "1"},
}
_EVALUATED = {
    "checkpoint": b'model_checkpoint_path: "model.ckpt-3"\n',
    "model.ckpt-3.index": b"",
    "model.ckpt-3.data-00000-of-00001": b"",
    "train_log.csv": _LOG,
    "train.lock": b"",
    "eval.json": b"{}",
    f"validation_eval/{TASK}.json": json.dumps({"steps": [_SCORES]}).encode(),
    f"validation_eval/{TASK}-3.jsonl": "".join(
        json.dumps({"inputs": f"{i}", "target_value": "yes", "prediction_value": word}) + "\n"
        for i, word in enumerate(("yes", "no"))
    ).encode(),
}

Outcome = Literal["refused", "reached", "finished", "traceback", "hang"]


class Reached(BaseException):
    """A command has constructed its settings and its model, where the test stops it."""


class TookTooLong(BaseException):
    """A command hangs."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a command line ended.

    Attributes:
      outcome: "reached" or "finished" without a mistake, "refused", or a fault.
      message: What was printed for the user, or the traceback.
    """

    outcome: Outcome
    message: str

    @property
    def fault(self) -> str:
        """The fault of the command; "" without one."""
        if self.outcome in ("traceback", "hang"):
            return self.message
        return _find_fault(self.message) if self.outcome == "refused" else ""


def _find_fault(message: str) -> str:
    """Finds a fault in the message of a refusal, which must name the mistake on one line.

    Names of several tensors, or bindings that differ, may be listed below it.
    """
    texts = [line for line in message.splitlines() if line.startswith("run_switch.py")]
    if "Traceback" in message or not texts:
        return f"not a refusal in a sentence: {message}"
    text = texts[-1].split(": ", 1)[-1]
    return f"no sentence: {message}" if len(text) < 15 or " " not in text else ""


@dataclasses.dataclass(frozen=True)
class FuzzedFolder:
    """Makes the folders of command lines, and runs them.

    Attributes:
      tiny: The tiny model, its corpus and its cache.
      folder: An empty folder for the folders.
      trees: Name -> the files of a folder that command lines may name: the model_dir `run`, and
        checkpoints to convert by their formats.
    """

    tiny: TinyRun
    folder: Path
    trees: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)

    def prepare(self) -> None:
        """Makes a model_dir and checkpoints of each format. Command lines find copies of them."""
        made = self.folder / "made"
        for format in ("hf", "t5x", "mtf"):
            random_checkpoints.write_checkpoint(
                format, made / format, random_checkpoints.SWITCH
            )
            self.trees[format] = _read_tree(made / format)
        with _seams(trains_vocabulary=True), contextlib.suppress(Reached):
            outcome = self.tiny.train(made / "run", "--steps=6")
            raise AssertionError(outcome.err)
        self.trees["run"] = {**_read_tree(made / "run"), **_EVALUATED}

    def run(self, command: Any) -> Verdict:
        """Runs a `fuzzed_commands.CommandLine` in a new folder, up to its model or its graph."""
        here = self.folder / "here"
        shutil.rmtree(here, ignore_errors=True)
        self._fill(here, command)
        names = {"{here}": str(here), "{corpus}": str(self.tiny.corpus)}
        arguments = [_replace(argument, names) for argument in command.arguments]
        try:
            with _seams(command.builds_graph), limit_time(), _working_in(here):
                outcome = self.tiny.command(*arguments)
        except Reached:
            return Verdict("reached", "")
        except TookTooLong:
            return Verdict("hang", traceback.format_exc())
        except Exception:
            return Verdict("traceback", traceback.format_exc())
        return Verdict("refused" if outcome.code else "finished", outcome.err)

    def _fill(self, here: Path, command: Any) -> None:
        contents: dict[str, bytes | None] = {
            **FILES,
            "tiny.gin": MODEL.encode(),
            "folder": None,
        }
        for name, tree in self.trees.items():
            if any(f"{{here}}/{name}" in argument for argument in command.arguments):
                contents |= {f"{name}/{path}": data for path, data in tree.items()}
        for path, data in {**contents, **command.contents}.items():
            target = here / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if data is None:
                target.mkdir()
            else:
                target.write_bytes(data)
        os.mkfifo(here / "pipe")


def _read_tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _replace(argument: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        argument = argument.replace(name, value)
    return argument


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def limit_time() -> Iterator[None]:
    """Raises TookTooLong in what takes too long."""

    def stop(*_: Any) -> None:
        raise TookTooLong

    limits = (
        (signal.SIGALRM, signal.ITIMER_REAL, SECONDS),
        (signal.SIGVTALRM, signal.ITIMER_VIRTUAL, CPU_SECONDS),
    )
    handlers = [signal.signal(number, stop) for number, _, _ in limits]
    for _, timer, seconds in limits:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(limits, handlers):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def _reach(*_: Any, **__: Any) -> None:
    raise Reached


@contextlib.contextmanager
def _seams(builds_graph: bool = False, trains_vocabulary: bool = False) -> Iterator[None]:
    """Stops commands where the expensive part begins.

    That is a session of TensorFlow, a program for PJRT, the lowering for a pod, a download, the training of a
    vocabulary, and waiting for further checkpoints.
    """
    # These imports load TensorFlow, so they are not at the top.
    import tensorflow_datasets as tfds
    from tensorflow.python.tpu import tpu_estimator

    from mtf_switch.analysis import traced_model
    from mtf_switch.downstream import checkpoint_selection
    from mtf_switch.pjrt import executable, inference_graph, training_graph
    from mtf_switch.planning import pod_graph
    from mtf_switch.programs import tpu_compiler
    from mtf_switch.reproduction import runner as reproduction_runner
    from mtf_switch.serving import served_model
    from tasks import text_corpus

    train_vocabulary = text_corpus.train_vocabulary if trains_vocabulary else _reach
    stop = _build_graph if builds_graph else (lambda mode: _reach)
    runner = tpu_estimator.TPUEstimator
    graphs = () if builds_graph else (training_graph, inference_graph)
    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (runner, "train", stop("train")),
            (runner, "evaluate", stop("eval")),
            (runner, "predict", stop("infer")),
            *((graph, "build", _reach) for graph in graphs),
            (executable.Executable, "__init__", _reach),
            (traced_model, "TracedModel", _reach),
            (served_model, "_read_weights", _reach),
            (pod_graph, "_make_mesh_impl", _reach),
            # The compiler need not be installed.
            (tpu_compiler, "find_library", lambda: Path("libtpu.so")),
            (tfds.core.DatasetBuilder, "download_and_prepare", _reach),
            (text_corpus, "train_vocabulary", train_vocabulary),
            (reproduction_runner, "run_all", _reach),
            (checkpoint_selection, "time", types.SimpleNamespace(sleep=_reach)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def _build_graph(mode: str) -> Any:
    """Returns a method of TPUEstimator that builds the graph of the first step, and stops."""
    import tensorflow.compat.v1 as tf

    def build(runner: Any, input_fn: Any, *_: Any, **__: Any) -> None:
        with tf.Graph().as_default():
            tf.set_random_seed(0)
            tf.train.get_or_create_global_step()
            batch = tf.data.make_one_shot_iterator(input_fn({})).get_next()
            runner._call_model_fn(dict(batch), None, mode, runner.config)
        raise Reached

    return build
