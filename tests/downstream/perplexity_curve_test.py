"""`eval --perplexity` of several checkpoints and of a mixture."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf
from matplotlib.figure import Figure
from quality_files import write_run
from tiny_run import (
    INPUTS,
    TARGETS,
    TinyRun,
    copy_of,
    filled_up,
    log_likelihoods,
    run_model,
    validation_examples,
)

from mtf_switch.downstream import checkpoint_selection, perplexity_curve, quality_curve
from mtf_switch.downstream.perplexity_curve import Row

# In the order in which seqio lists them.
TASKS = ("mtf_switch_test_long", "mtf_switch_test_short")
MIXTURE = "mtf_switch_test_short_and_long"
# The positions of a step.
STEP_TOKENS = 8 * (INPUTS + TARGETS)


def make_reader(arrays: dict[str, np.ndarray]) -> Callable[..., tf.data.Dataset]:
    def read(split: str, shuffle_files: bool = False, seed: int | None = None):
        return tf.data.Dataset.from_tensor_slices(arrays)

    return read


@pytest.fixture(scope="module")
def mixture(trained: Path) -> Iterator[str]:
    """A mixture of two tasks with the trained vocabulary, of 5 and 3 examples."""
    vocabulary = seqio.SentencePieceVocabulary(str(trained / "vocabulary.model"), 100)
    feature = seqio.Feature(vocabulary, add_eos=True)
    for task, examples, length in zip(TASKS, (5, 3), (12, 4)):
        ids = np.random.RandomState(examples).randint(
            3, 300, size=(2, examples, length), dtype=np.int32
        )
        arrays = dict(zip(("inputs", "targets"), ids))

        seqio.TaskRegistry.add(
            task,
            source=seqio.FunctionDataSource(make_reader(arrays), splits=["validation"]),
            preprocessors=[seqio.preprocessors.append_eos_after_trim],
            output_features={"inputs": feature, "targets": feature},
        )
    seqio.MixtureRegistry.add(MIXTURE, list(TASKS), default_rate=1.0)
    yield MIXTURE
    seqio.MixtureRegistry.remove(MIXTURE)
    for task in TASKS:
        seqio.TaskRegistry.remove(task)


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_follow_writes_a_row_for_each_checkpoint_and_task(
    tiny: TinyRun, trained: Path, mixture: str, tmp_path: Path, monkeypatch
) -> None:
    model_dir = copy_of(trained, tmp_path / "run")
    # The run ends at step 6. Of its checkpoints, those of steps 3 and 6 are left.
    for path in model_dir.glob("model.ckpt-0.*"):
        path.unlink()
    monkeypatch.setattr(checkpoint_selection, "_SECONDS_BETWEEN_LOOKS", 0)
    outcome = tiny.command("eval", f"--model_dir={model_dir}", f"--task={mixture}", "--follow")
    assert outcome.code == 0, outcome.err
    name = f"perplexity-{mixture}"
    rows = read_csv(model_dir / f"{name}.csv")
    assert [(row["step"], row["task"]) for row in rows] == [
        (step, task) for step in ("3", "6") for task in (mixture, *TASKS)
    ]
    assert (model_dir / f"{name}.png").stat().st_size > 10_000
    assert f"{name}.csv and {name}.png" in outcome.out
    assert {path.name for path in model_dir.glob("eval*.json")} == {
        f"eval-{mixture}-3.json",
        f"eval-{mixture}.json",
    }

    # The model called on its own.
    checkpoint = str(model_dir / "model.ckpt-6")
    settings, vocabulary = tiny.load(model_dir, [f"MIXTURE_NAME = {TASKS[0]!r}"])
    tokens = nats = 0
    for task, row in zip(TASKS, rows[4:]):
        settings, vocabulary = tiny.load(model_dir, [f"MIXTURE_NAME = {task!r}"])
        batch = {k: filled_up(ids) for k, ids in validation_examples(settings).items()}
        (ran,) = run_model(checkpoint, settings, vocabulary, [batch])
        own_nats = log_likelihoods(ran.logits, batch["targets"]).sum()
        own_tokens = np.count_nonzero(batch["targets"])
        # float32 sums of some 60 terms. The batch of the mixture has other rows, and experts
        # have room for all tokens.
        assert float(row["neg_log_perplexity"]) == pytest.approx(
            own_nats / own_tokens, rel=1e-5
        )
        assert (int(row["target_tokens"]), row["split"]) == (own_tokens, "validation")
        tokens, nats = tokens + own_tokens, nats + own_nats
    assert int(rows[3]["target_tokens"]) == tokens
    assert float(rows[3]["neg_log_perplexity"]) == pytest.approx(nats / tokens, rel=1e-5)
    assert [row["examples"] for row in rows[3:]] == ["8", "5", "3"]
    assert rows[3]["training_tokens"] == str(6 * STEP_TOKENS)
    assert float(rows[3]["training_seconds"]) == quality_curve.read_seconds(str(model_dir))[6]
    curve = quality_curve.read(str(model_dir), TASKS[1], "validation")
    assert [point.step for point in curve.points] == [3, 6]
    assert curve.points[1].neg_log_perplexity == pytest.approx(
        float(rows[5]["neg_log_perplexity"])
    )


def make_rows(qualities: dict[str, list[float]], seconds: float | None = 2.0) -> list[Row]:
    return [
        Row(100 * i, task, "validation", values[i], 0.5, 9, 3, 640 * i, seconds)
        for i in range(len(next(iter(qualities.values()))))
        for task, values in qualities.items()
    ]


def test_the_table_has_the_best_and_the_last_step() -> None:
    rows = make_rows({"both": [-5.0, -2.0, -3.0], "one": [-4.0, -3.0, -2.5]})
    _, both, one = perplexity_curve.format_table(rows).splitlines()
    assert both.split() == ["both", "-3.0000", "-2.0000", "100"]
    assert one.split() == ["one", "-2.5000", "-2.5000", "200"]


def test_no_loss_of_nan_is_the_best() -> None:
    rows = make_rows({"one": [math.nan, -3.0, math.nan]})
    _, one = perplexity_curve.format_table(rows).splitlines()
    assert one.split() == ["one", "nan", "-3.0000", "100"]


@pytest.mark.parametrize(
    ("tasks", "seconds", "panels", "names"),
    [
        (2, 2.0, 3, ["t0", "t1", "all"]),
        (9, None, 2, ["its 9 tasks", "all"]),
        (0, 2.0, 3, ["all"]),
    ],
)
def test_the_plot_has_a_curve_for_each_task(
    tasks: int, seconds: float | None, panels: int, names: list[str]
) -> None:
    rows = make_rows(
        {"all": [-3.0, -2.0], **{f"t{i}": [-4.0, -2.5 - i] for i in range(tasks)}}, seconds
    )
    figure = Figure()
    perplexity_curve.draw(figure, rows, "model on all (validation)")
    assert figure.get_suptitle() == "model on all (validation)"
    assert len(figure.axes) == panels
    for axis, x in zip(figure.axes, ([0, 100], [0, 640], [2.0, 2.0])):
        lines = axis.get_lines()
        assert len(lines) == tasks + 1
        np.testing.assert_array_equal(lines[-1].get_xdata(), x)
        np.testing.assert_array_equal(lines[-1].get_ydata(), [-3.0, -2.0])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names


@pytest.mark.parametrize("quality", [-3.0, math.nan])
def test_an_earlier_result_keeps_a_file_of_its_own(tmp_path: Path, quality: float) -> None:
    from mtf_switch.runs.evaluation import Evaluation

    write_run(tmp_path, {100: quality})
    (tmp_path / "eval-100.json").rename(tmp_path / "eval.json")
    result = Evaluation(200, "x", "validation", -2.0, 0.5, 90, 0.0, {}, {}, {})
    perplexity_curve._keep_earlier(str(tmp_path), "eval", result)
    assert json.loads((tmp_path / "eval-100.json").read_text())["step"] == 100
    (tmp_path / "eval.json").write_text("{")
    perplexity_curve._keep_earlier(str(tmp_path), "eval", result)


def test_evaluations_of_other_data_and_damaged_ones_are_left_out_and_named(
    tmp_path: Path, capsys
) -> None:
    from types import SimpleNamespace

    from mtf_switch.runs.evaluation import Evaluation

    write_run(tmp_path, {100: -3.0, 200: -2.0}, task="x", tokens=90)
    write_run(tmp_path, {300: -2.0}, task="x", tokens=80)
    (tmp_path / "eval-400.json").write_text("{")
    for path in tmp_path.glob("eval-?00.json"):
        if path.name != "eval-400.json":
            data = {**json.loads(path.read_text()), "token_accuracy": 0.5, "examples": 3}
            path.write_text(json.dumps(data))
    settings = SimpleNamespace(tokens_per_batch=10)
    run = SimpleNamespace(model_dir=str(tmp_path), settings=settings)
    result = Evaluation(200, "x", "validation", -2.0, 0.5, 90, 0.0, {}, {}, {})
    rows = perplexity_curve.read_rows(run, result)
    assert [(r.step, r.training_tokens, r.training_seconds) for r in rows] == [
        (100, 1000, 50.0),
        (200, 2000, 100.0),
    ]
    message = capsys.readouterr().err
    assert "eval-300.json is left out of the curve: it used different data, with 80" in message
    assert "Left out: " in message
    assert "eval-400.json is damaged" in message
    # Its own file may be among the damaged ones.
    spoiled = dataclasses.replace(result, step=400, neg_log_perplexity=math.nan)
    assert [r.step for r in perplexity_curve.read_rows(run, spoiled)] == [100, 200, 400]
    perplexity_curve._print_if_spoiled("model.ckpt-400", spoiled)
    assert "The loss of model.ckpt-400 is nan nats" in capsys.readouterr().err


def test_evaluations_with_other_bindings_have_a_curve_of_their_own(tmp_path: Path) -> None:
    """The capacity decides the perplexity, and not the number of target tokens."""
    from types import SimpleNamespace

    from mtf_switch.runs.evaluation import Evaluation

    changes = {"ExpertCapacity.capacity_factor_eval": "1.0"}
    for name, quality, changed in (("eval", -2.0, {}), ("eval-x=1.0", -4.0, changes)):
        write_run(tmp_path, {100: quality, 200: quality}, name, "x", changes=changed)
    for path in tmp_path.glob("eval*.json"):
        data = {**json.loads(path.read_text()), "token_accuracy": 0.5, "examples": 3}
        path.write_text(json.dumps(data))
    run = SimpleNamespace(
        model_dir=str(tmp_path), settings=SimpleNamespace(tokens_per_batch=10)
    )
    own = Evaluation(200, "x", "validation", -2.0, 0.5, 90, 0.0, {}, {}, {})
    for result, quality in (
        (own, -2.0),
        (dataclasses.replace(own, neg_log_perplexity=-4.0, changes=changes), -4.0),
    ):
        rows = perplexity_curve.read_rows(run, result)
        assert [(r.step, r.neg_log_perplexity) for r in rows] == [
            (100, quality),
            (200, quality),
        ]
    report = perplexity_curve.make_report(rows, "x", None, "model", changes)
    assert report.name == "perplexity-ExpertCapacity.capacity_factor_eval=1.0"
    assert report.data["changes"] == changes
    figure = Figure()
    report.plots[f"{report.name}.png"](figure)
    assert figure.get_suptitle() == (
        "model on x (validation)\nExpertCapacity.capacity_factor_eval = 1.0"
    )
