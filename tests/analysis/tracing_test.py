"""The trace of a model: against seqio, an independent run of the model, and zeroed experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import expert_traces
import numpy as np
import pytest
import seqio
from tiny_run import (
    BATCH,
    EXPERTS,
    INPUTS,
    SWITCH_LAYERS,
    TARGETS,
    TinyRun,
    log_likelihoods,
    run_model,
)

from mtf_switch.analysis import routing_trace, tracing
from mtf_switch.analysis.example_batches import Examples
from mtf_switch.analysis.routing_trace import RoutingTrace
from mtf_switch.analysis.traced_model import TracedModel, open_model
from mtf_switch.errors import UserError
from mtf_switch.runs.run import Run

DECODER, ENCODER = SWITCH_LAYERS
SHAPES = {"inputs": (BATCH, INPUTS), "targets": (BATCH, TARGETS)}


@pytest.fixture(scope="module")
def folder(tiny: TinyRun, trained: Path, tmp_path_factory) -> Path:
    """The results of the command for two checkpoints; the trace has files of 100 tokens."""
    return expert_traces.make(tiny, trained, tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="module")
def traced(folder: Path) -> RoutingTrace:
    """The trace."""
    return RoutingTrace.open(str(folder / "trace"))


@pytest.fixture
def column(traced: RoutingTrace):
    """Reads a column of the last checkpoint."""
    return lambda segment, name: traced.column(6, segment, name)


@pytest.fixture(scope="module")
def examples(tiny: TinyRun, trained: Path) -> dict[str, np.ndarray]:
    """The first 80 examples of the training split, read with seqio."""
    settings, _ = tiny.load(trained)
    task = seqio.get_mixture_or_task(settings.task)
    read = task.get_dataset(settings.sequence_length, "train", shuffle=False, seed=0)
    found = list(read.take(80).as_numpy_iterator())
    arrays = {name: np.zeros([80, length], np.int32) for name, (_, length) in SHAPES.items()}
    for name, ids in arrays.items():
        for row, example in zip(ids, found):
            row[: len(example[name])] = example[name]
    return arrays


def test_the_tokens_are_those_of_the_split(column, traced, examples):
    # Whole batches are read until expert_traces.TOKENS are reached.
    counts = sum(np.count_nonzero(ids, axis=1) for ids in examples.values())
    rows = BATCH * (
        1
        + np.argmax(
            np.add.reduceat(counts, range(0, len(counts), BATCH)).cumsum()
            >= expert_traces.TOKENS
        )
    )
    inputs, targets = examples["inputs"][:rows], examples["targets"][:rows]
    assert traced.info.tokens == {
        "encoder": np.count_nonzero(inputs),
        "decoder": np.count_nonzero(targets),
    }
    files = sorted(p.name for p in Path(traced.folder).glob("step-6/encoder-*"))
    assert len(files) == -(-np.count_nonzero(inputs) // 100)
    np.testing.assert_array_equal(column("encoder", "token"), inputs[inputs > 0])
    np.testing.assert_array_equal(column("decoder", "target"), targets[targets > 0])
    example, position = np.nonzero(targets)
    np.testing.assert_array_equal(column("decoder", "example"), example)
    np.testing.assert_array_equal(column("decoder", "row"), example % BATCH)
    np.testing.assert_array_equal(column("decoder", "position"), position)
    before = np.where(position > 0, targets[example, position - 1], 0)
    np.testing.assert_array_equal(column("decoder", "token"), before)
    assert (column("encoder", "domain") == 0).all()
    assert traced.info.domains == ["text_files"]


def test_every_id_has_its_text(tiny, trained, traced, column):
    _, (vocabulary, _) = tiny.load(trained)
    ids = {int(i) for s in ("encoder", "decoder") for i in column(s, "token")}
    ids |= {int(i) for i in column("decoder", "target")}
    assert traced.info.pieces.keys() >= ids
    assert traced.info.pieces[0] == "<start>"
    some = column("encoder", "token")[:5].tolist()
    text = "".join(traced.info.pieces[i] for i in some).replace("▁", " ").strip()
    assert text.split() == vocabulary.decode(some).split()


def test_routing_and_loss_are_those_of_the_model(tiny, trained, traced, column, examples):
    settings, vocabulary = tiny.load(trained)
    checkpoint = str(trained / "model.ckpt-6")
    batches = [
        {name: ids[i * BATCH : (i + 1) * BATCH] for name, ids in examples.items()}
        for i in range(column("encoder", "example")[-1] // BATCH + 1)
    ]
    ran = run_model(checkpoint, settings, vocabulary, batches)
    for layer in SWITCH_LAYERS:
        sums = sum(result.router_sums[layer] for result in ran)
        segment = routing_trace.segment_of(layer)
        expert = column(segment, f"expert/{layer}")[:, 0]
        np.testing.assert_array_equal(np.bincount(expert, minlength=EXPERTS), sums[6:-EXPERTS])
        dropped = ~column(segment, f"kept/{layer}")[:, 0]
        assert dropped.sum() == sums[1]
        # float32 sums of hundreds of probabilities.
        np.testing.assert_allclose(column(segment, f"gate/{layer}").sum(), sums[3], rtol=1e-5)
        assert traced.info.routers[6][layer]["entropy"] == pytest.approx(sums[2] / sums[0])
    assert traced.info.experts == {ENCODER: EXPERTS, DECODER: EXPERTS}
    assert traced.info.group_sizes == {ENCODER: 64, DECODER: 64}
    expected = [-log_likelihoods(r.logits, b["targets"]) for r, b in zip(ran, batches)]
    targets = np.concatenate([batch["targets"] for batch in batches])
    # float32 of a sum over 512 logits.
    np.testing.assert_allclose(
        column("decoder", "loss"), np.concatenate(expected)[targets > 0], rtol=1e-4, atol=1e-4
    )


def test_checkpoints_differ(traced):
    before, after = (traced.column(step, "encoder", f"gate/{ENCODER}") for step in (3, 6))
    assert traced.info.steps == [3, 6]
    assert traced.info.weights[3] != traced.info.weights[6]
    assert before.shape == after.shape
    assert (before != after).any()


@pytest.fixture(scope="module")
def model(tiny: TinyRun, trained: Path) -> Iterator[TracedModel]:
    """The model at step 6."""
    settings, vocabulary = tiny.load(trained)
    with open_model(Run(settings, vocabulary, str(trained)), SHAPES) as opened:
        opened.restore(str(trained / "model.ckpt-6"))
        yield opened


@pytest.mark.parametrize("layer", SWITCH_LAYERS)
def test_taking_an_expert_away_is_the_same_as_zeroing_its_weights(model, examples, layer):
    batch = {name: ids[:BATCH] for name, ids in examples.items()}
    routing = model.trace(batch)
    expert = 1
    passes = routing.layers[layer].expert == expert
    assert 0 < passes.sum() < passes.size
    ablated = model.compute_loss(batch, layer, passes)
    nobody = np.zeros_like(passes)
    np.testing.assert_array_equal(model.compute_loss(batch, layer, nobody), routing.loss)

    graph = model._session.graph
    (kernel,) = (
        v
        for v in graph.get_collection("variables")
        if v.op.name.startswith(layer) and v.op.name.endswith("/wo/kernel")
    )
    with graph.as_default():
        value = model._session.run(kernel)
        zeroed = value.copy()
        zeroed[expert] = 0
        kernel.load(zeroed, model._session)
        model._session.run(model._copy_to_slices)
        expected = model.trace(batch).loss
        kernel.load(value, model._session)
        model._session.run(model._copy_to_slices)
    # The same sums in float32, in another order.
    np.testing.assert_allclose(ablated, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(ablated - routing.loss).max() > 1e-4


def test_only_a_traces_own_files_are_removed(tmp_path):
    for name in ("trace.json", "notes.txt", "step-3/encoder-000.npz", "step-x/mine.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    tracing.remove_trace(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "step-x"]
    tracing.remove_trace(str(tmp_path / "missing"))


def test_a_domain_must_be_a_text_of_the_examples(tiny, trained):
    settings, _ = tiny.load(trained)
    with pytest.raises(UserError, match="--domain is 'package', but the examples of task 'tex"):
        Examples(settings, "validation", "package")


@pytest.mark.slow
def test_a_trace_on_two_devices_is_that_of_one(tiny, trained, traced, tmp_path):
    outcome = tiny.command(
        "experts", *expert_traces.arguments(trained, tmp_path), "--devices=2", "--trace_only"
    )
    assert outcome.code == 0, outcome.err
    other = RoutingTrace.open(str(tmp_path / "trace"))
    assert other.info.digest == traced.info.digest
    for layer in SWITCH_LAYERS:
        segment = routing_trace.segment_of(layer)
        for name in ("expert", "kept"):
            np.testing.assert_array_equal(
                other.column(6, segment, f"{name}/{layer}"),
                traced.column(6, segment, f"{name}/{layer}"),
            )


@pytest.mark.slow
def test_other_routers_and_switch_attention(tiny, tmp_path):
    stack = "encoder/transformer.make_layer_stack.layers"
    outcome = tiny.train(
        tmp_path / "run",
        "--steps=1",
        params={
            stack: "[@SwitchAttention, @SwitchFFN]",
            "SwitchFFN.router": "@TopKRouter()",
            "SwitchAttention.router": "@NoTokenLeftBehindRouter()",
            "NoTokenLeftBehindRouter.stages": "3",
            "ExpertCapacity.capacity_factor_eval": "0.5",
        },
    )
    assert outcome.code == 0, outcome.err
    outcome = tiny.command(
        "experts", f"--model_dir={tmp_path / 'run'}", "--split=train", "--tokens=2000"
    )
    assert outcome.code == 0, outcome.err
    trace = RoutingTrace.open(str(tmp_path / "run" / "experts" / "trace"))
    attention = "encoder/block_000/layer_000"
    choices = {
        f"{attention}/query": 3,
        f"{attention}/key_value": 3,
        "encoder/block_000/layer_001": 2,
        DECODER: 2,
    }
    assert list(trace.info.experts) == list(choices)
    for layer, number in choices.items():
        kept = trace.column(1, routing_trace.segment_of(layer), f"kept/{layer}")
        assert kept.shape[1] == number
        dropped = trace.info.routers[1][layer]["dropped_fraction"]
        assert 1 - kept.any(axis=1).mean() == pytest.approx(dropped)
        # A token visits one of its choices without being left behind, and may visit two of two.
        assert kept.sum(axis=1).max() == (1 if number == 3 else 2)
    page = (tmp_path / "run" / "experts" / "experts.md").read_text()
    assert "drops late in the group" in page
    assert (tmp_path / "run" / "experts" / "drops.png").exists()
