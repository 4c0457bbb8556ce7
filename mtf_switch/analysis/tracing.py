"""Runs the checkpoints of a model over examples, and writes their routing trace."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from mtf_switch import whole_file
from mtf_switch.analysis import routing_trace
from mtf_switch.analysis.example_batches import ExampleBatch, Examples
from mtf_switch.analysis.routing_trace import SEGMENTS, RoutingTrace, SegmentWriter, TraceInfo
from mtf_switch.analysis.traced_model import BatchRouting, TracedModel
from mtf_switch.errors import UserError
from mtf_switch.layers.router_metrics import RouterMetrics
from mtf_switch.model_dirs import checkpoint_files, saved_checkpoints
from mtf_switch.runs.run import Run

# A token without text: padding, with which a decoder starts.
_START_ID = 0


def write_trace(
    model: TracedModel,
    run: Run,
    examples: Examples,
    checkpoints: Sequence[str],
    request: Mapping[str, Any],
    folder: str,
    check: Callable[[RoutingTrace], None],
) -> RoutingTrace:
    """Traces checkpoints of a run, one after the other, on the same tokens.

    Args:
      model: The model of the run. It gets the weights of each checkpoint in turn.
      run: The run.
      examples: The examples to read.
      checkpoints: Paths of the checkpoints.
      request: What the user asked for, see `TraceInfo.request`. After that number of "tokens",
        of encoder and decoder together, no further batch is read.
      folder: The folder of the trace. A trace in it is replaced when the new one is whole.
      check: Refuses a trace that cannot be used, by a UserError. It gets the trace of the first
        checkpoint before the next ones are traced.

    Returns:
      The trace.

    Raises:
      UserError: If a checkpoint cannot be read or is of another model, if the examples are not
        the same for all, or if the check fails.
    """
    weights, routers, domains, info = {}, {}, {}, None
    with whole_file.temporary_folder(folder) as part:
        for path in checkpoints:
            model.restore(path)
            step = saved_checkpoints.parse_step(path)
            writers = _write_step(
                model, examples, step, request["tokens"], part, domains, routers
            )
            weights[step] = checkpoint_files.fingerprint(path)
            before, info = (
                info,
                _make_info(
                    *(model, run, examples, writers),
                    request=dict(request),
                    weights=weights,
                    domains=list(domains),
                    routers=routers,
                ),
            )
            if before is None:
                check(RoutingTrace(part, info))
            elif info.digest != before.digest:
                raise UserError(
                    f"The examples of {run.settings.task} are others at each reading, so "
                    "checkpoints cannot be compared: give mesh_eval_dataset_fn.seed a number."
                )
        _replace_trace(folder, part, info)
    return RoutingTrace(folder, info)


def _make_info(
    model: TracedModel,
    run: Run,
    examples: Examples,
    writers: Mapping[str, SegmentWriter],
    **others: Any,
) -> TraceInfo:
    """Describes a trace that writers wrote; `others` are the attributes they do not tell."""
    ids = sorted(set.union(*(writer.ids for writer in writers.values())))
    return TraceInfo(
        model=whole_file.make_absolute(run.model_dir),
        batch_size=run.settings.batch_size,
        lengths={segment: _length(examples, segment) for segment in writers},
        experts=model.experts,
        group_sizes=model.group_sizes,
        tokens={segment: writer.tokens for segment, writer in writers.items()},
        pieces={token: name_piece(run.feature_vocabulary("targets"), token) for token in ids},
        digest="-".join(writer.digest for writer in writers.values()),
        tokens_per_file=routing_trace.TOKENS_PER_FILE,
        **others,
    )


def _replace_trace(folder: str, part: str, info: TraceInfo) -> None:
    """Moves the files of a trace to its folder, where those of an earlier one are removed."""
    remove_trace(folder)
    whole_file.make_folder(folder)
    for name in os.listdir(part):
        os.rename(os.path.join(part, name), os.path.join(folder, name))
    routing_trace.write_info(folder, info)


def remove_trace(folder: str) -> None:
    """Removes the files of a trace from a folder, and nothing else."""
    # Without trace.json, the others are no trace.
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, routing_trace.FILE))
    for name in whole_file.list_names(folder):
        if name.startswith("step-") and name[len("step-") :].isdigit():
            shutil.rmtree(os.path.join(folder, name))


def name_piece(vocabulary: Any, token: int) -> str:
    """Returns the text of a token id, with SentencePiece's mark for the start of a word."""
    if token == _START_ID:
        return "<start>"
    tokenizer = getattr(vocabulary, "tokenizer", None)
    return vocabulary.decode([token]) if tokenizer is None else tokenizer.id_to_piece(token)


def _length(examples: Examples, segment: str) -> int:
    shapes = examples.shapes
    feature = "inputs" if segment == "encoder" else "targets"
    return shapes[feature][1]


def _write_step(
    model: TracedModel,
    examples: Examples,
    step: int,
    tokens: int,
    folder: str,
    domains: dict[str, int],
    routers: dict[int, Any],
) -> dict[str, SegmentWriter]:
    """Writes the files of one checkpoint, and adds to `domains` and `routers`."""
    step_folder = os.path.join(folder, f"step-{step}")
    whole_file.make_folder(step_folder)
    present = {routing_trace.segment_of(layer) for layer in model.experts}
    writers = {s: SegmentWriter(step_folder, s) for s in SEGMENTS if s in present}
    sums: dict[str, np.ndarray] = {}
    with tqdm(desc=f"step {step}", total=tokens, unit="token", disable=None) as bar:
        for number, batch in enumerate(examples.batches()):
            routing = model.trace(batch.features)
            first = number * examples.settings.batch_size
            for segment, columns in _make_columns(batch, routing, first, domains):
                writers[segment].add(columns)
            for layer, vector in routing.router_sums.items():
                sums[layer] = sums.get(layer, 0) + np.asarray(vector, np.float64)
            traced = sum(writer.tokens for writer in writers.values())
            bar.update(traced - bar.n)
            if traced >= tokens:
                break
    for writer in writers.values():
        writer.close()
    routers[step] = {layer: _scalars(sums[layer]) for layer in model.experts}
    return writers


def _scalars(sums: np.ndarray) -> dict[str, float]:
    metrics = dataclasses.asdict(RouterMetrics.from_sums(sums))
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def _make_columns(
    batch: ExampleBatch, routing: BatchRouting, first_example: int, domains: dict[str, int]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields the columns of the tokens of each stack; see `routing_trace`."""
    for domain in batch.domains:
        domains.setdefault(domain, len(domains))
    rows = len(next(iter(batch.features.values())))
    domain_of_row = np.zeros(rows, np.int32)
    domain_of_row[: len(batch.domains)] = [domains[domain] for domain in batch.domains]
    for segment in SEGMENTS:
        layers = {
            name: layer
            for name, layer in routing.layers.items()
            if routing_trace.segment_of(name) == segment
        }
        if not layers:
            continue
        real = next(iter(layers.values())).nonpadding
        row, position = np.nonzero(real)
        columns = {
            **_read_tokens(segment, batch.features, routing.loss, real),
            "example": first_example + row,
            "row": row,
            "position": position,
            "domain": domain_of_row[row],
        }
        for name, layer in layers.items():
            columns[f"expert/{name}"] = layer.expert[real]
            columns[f"gate/{name}"] = layer.gate[real]
            columns[f"kept/{name}"] = layer.kept[real]
        yield segment, columns


def _read_tokens(
    segment: str, features: dict[str, np.ndarray], loss: np.ndarray, real: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the columns "token", "target" and "loss" of the real tokens [B, L] of a stack."""
    if segment == "encoder":
        token = features["inputs"][real]
        return {"token": token, "target": np.zeros_like(token), "loss": np.zeros(len(token))}
    targets = features["targets"]
    # A decoder reads the target before the one that it has to predict.
    read = np.pad(targets[:, :-1], [(0, 0), (1, 0)], constant_values=_START_ID)
    return {"token": read[real], "target": targets[real], "loss": loss[real]}
