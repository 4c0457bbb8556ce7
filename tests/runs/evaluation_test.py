"""`run_switch.py eval`, against an independent count and an independent log-softmax."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from unittest import mock

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
from tiny_run import (
    BATCH,
    EXPERTS,
    SWITCH_LAYERS,
    Outcome,
    TinyRun,
    copy_of,
    filled_up,
    log_likelihoods,
    run_model,
    validation_examples,
)

from mtf_switch.config import gin_config, saved_config
from mtf_switch.errors import UserError
from mtf_switch.runs import estimator, eval_metrics, evaluation, router_summaries
from mtf_switch.runs.run import Run

FEATURES = ("inputs", "targets")
SENTINELS = 100
UNKNOWN = 2
OTHER_TASK = "mtf_switch_test_two_words"


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A call of `eval` and its results."""

    model_dir: Path
    outcome: Outcome
    result: dict[str, Any]
    name: str


def evaluate(tiny: TinyRun, model_dir: Path, *arguments: str) -> Evaluated:
    outcome = tiny.command("eval", f"--model_dir={model_dir}", *arguments)
    assert outcome.code == 0, outcome.err
    # The last line names the file.
    file = Path(outcome.out.splitlines()[-1].split()[1].rstrip(":"))
    return Evaluated(model_dir, outcome, json.loads(file.read_text()), file.name)


@pytest.fixture(scope="module")
def evaluated(tiny: TinyRun, trained: Path, tmp_path_factory) -> Evaluated:
    """The whole validation split, its last batch a partial one."""
    return evaluate(tiny, copy_of(trained, tmp_path_factory.mktemp("eval") / "run"))


@pytest.fixture(scope="module")
def other_task(trained: Path) -> str:
    """A task with the trained vocabulary and targets of very different lengths."""

    def examples(split: str, shuffle_files: bool = False, seed: int | None = None):
        chooser = np.random.RandomState(5 if split == "test" else 6)
        ids = [
            {name: chooser.randint(3, 300, size=chooser.randint(1, 14)) for name in FEATURES}
            for _ in range(11)
        ]
        if split == "validation":
            ids[3]["targets"][:] = UNKNOWN
            ids[7]["inputs"][:] = UNKNOWN
        signature = {name: tf.TensorSpec([None], tf.int32) for name in FEATURES}
        return tf.data.Dataset.from_generator(lambda: iter(ids), output_signature=signature)

    vocabulary = seqio.SentencePieceVocabulary(str(trained / "vocabulary.model"), SENTINELS)
    feature = seqio.Feature(vocabulary, add_eos=True)
    seqio.TaskRegistry.remove(OTHER_TASK)
    seqio.TaskRegistry.add(
        OTHER_TASK,
        source=seqio.FunctionDataSource(examples, splits=["validation", "test"]),
        preprocessors=[seqio.preprocessors.append_eos_after_trim],
        output_features={"inputs": feature, "targets": feature},
    )
    return OTHER_TASK


def by_hand(tiny: TinyRun, model_dir: Path) -> dict[str, Any]:
    """Computes the results of eval from the model: sums over all tokens, batch by batch."""
    settings, vocabulary = tiny.prepared()
    examples = validation_examples(settings)
    batches = [
        {name: filled_up(ids[start : start + BATCH]) for name, ids in examples.items()}
        for start in range(0, len(examples["targets"]), BATCH)
    ]
    log_likelihood, tokens = 0.0, 0
    sums = dict.fromkeys(SWITCH_LAYERS, 0.0)
    checkpoint = str(model_dir / "model.ckpt-6")
    for batch, ran in zip(batches, run_model(checkpoint, settings, vocabulary, batches)):
        log_likelihood += log_likelihoods(ran.logits, batch["targets"]).sum()
        tokens += np.count_nonzero(batch["targets"])
        for layer, vector in ran.router_sums.items():
            feature = "inputs" if layer.startswith("encoder") else "targets"
            # Rows and ends of padding are never routed.
            assert vector[0] == np.count_nonzero(batch[feature])
            assert 0 <= vector[1] <= vector[0]
            sums[layer] = sums[layer] + vector
    return {
        "neg_log_perplexity": log_likelihood / tokens,
        "target_tokens": tokens,
        "sums": sums,
    }


def test_eval_writes_and_prints_what_it_measured(evaluated: Evaluated) -> None:
    result = evaluated.result
    assert (result["step"], result["task"], result["split"]) == (6, "text_files", "validation")
    assert result["neg_log_perplexity"] < 0
    assert 0 <= result["token_accuracy"] <= 1
    printed = {
        line.split()[0]: line.split()[1:] for line in evaluated.outcome.out.splitlines() if line
    }
    assert printed["task"] == ["text_files", "(validation)"]
    assert printed["step"] == ["6"]
    assert printed["neg_log_perplexity"][0] == f"{result['neg_log_perplexity']:.4f}"
    assert printed["target_tokens"] == [str(result["target_tokens"])]
    assert printed["examples"] == [str(result["examples"]), "(all)"]
    assert evaluated.name == "eval.json"
    (wrote,) = (line for line in evaluated.outcome.out.splitlines() if "wrote" in line)
    assert f"eval.json and perplexity.csv: {result['examples']} examples, step 6, " in wrote
    assert result["unknown_tokens"] == 0
    assert "unknown_tokens" not in printed
    assert printed["dropped_fraction"] == [f"{result['dropped_fraction']:.4f}"]
    for layer in SWITCH_LAYERS:
        assert printed[layer][0] == f"{result['router'][layer]['dropped_fraction']:.4f}"
    assert evaluated.outcome.err == ""


def test_a_tpu_is_told_the_number_of_batches(
    tiny: TinyRun, evaluated: Evaluated, monkeypatch
) -> None:
    class Told(Exception):
        pass

    runner = mock.Mock()
    runner.evaluate.side_effect = Told
    monkeypatch.setattr(estimator, "build", lambda *_, **__: runner)
    run = Run(*tiny.load(evaluated.model_dir), str(evaluated.model_dir), cluster=mock.Mock())
    for batches, steps in ((None, -(-evaluated.result["examples"] // BATCH)), (2, 2)):
        with pytest.raises(Told):
            evaluation.evaluate(run, batches=batches)
        assert runner.evaluate.call_args.kwargs["steps"] == steps


@pytest.mark.parametrize("results", [{}, {"num_eval_tokens": 0.0, "neg_log_perplexity": 0.0}])
def test_a_split_of_which_nothing_is_left_is_no_perfect_model(
    tiny: TinyRun, trained: Path, monkeypatch, results: dict
) -> None:
    """PJRT has no results then, and the Estimator has means of 0."""
    runner = mock.Mock()
    runner.evaluate.return_value = results
    monkeypatch.setattr(estimator, "build", lambda *_, **__: runner)
    run = Run(*tiny.load(trained), str(trained))
    with pytest.raises(UserError, match=r"split 'validation' of task 'text_files' has no exam"):
        evaluation.evaluate(run, batches=1)


def test_a_number_of_examples_in_gin_makes_a_part_of_the_split(
    tiny: TinyRun, trained: Path, monkeypatch
) -> None:
    runner = mock.Mock()
    runner.evaluate.return_value = {
        **dict.fromkeys(("num_eval_tokens", eval_metrics.EXAMPLES), 5.0),
        **{"global_step": 6, "neg_log_perplexity": -1.0, "token_accuracy": 0.5},
    }
    monkeypatch.setattr(estimator, "build", lambda *_, **__: runner)
    monkeypatch.setattr(router_summaries, "write", lambda *_: None)
    run = Run(*tiny.load(trained), str(trained))
    gin_config.bind("mesh_eval_dataset_fn.num_eval_examples", 5)
    result = evaluation.evaluate(run)
    assert runner.evaluate.call_args.kwargs["name"] == "first5"
    assert evaluation.report_name(result, "text_files", latest_step=6) == "eval-first5"
    assert "\nexamples            5 (at most 5 were read" in evaluation.make_report(result).text


def test_every_switch_layer_has_a_load_that_sums_to_one(evaluated: Evaluated) -> None:
    load = evaluated.result["expert_load"]
    assert sorted(load) == sorted(SWITCH_LAYERS)
    for shares in load.values():
        assert len(shares) == EXPERTS
        # Counts are whole numbers, and are divided in float64.
        assert sum(shares) == pytest.approx(1.0, abs=1e-12)


def test_the_whole_split_is_measured_as_by_hand(tiny: TinyRun, evaluated: Evaluated) -> None:
    saved_config.load(str(evaluated.model_dir))
    settings, _ = tiny.prepared()
    assert len(validation_examples(settings)["targets"]) % BATCH, (
        "the last batch is to be partial"
    )
    expected = by_hand(tiny, evaluated.model_dir)
    result = evaluated.result
    assert result["target_tokens"] == expected["target_tokens"]
    assert result["examples"] == len(validation_examples(settings)["targets"])
    # float32 sums of some 200 terms.
    assert result["neg_log_perplexity"] == pytest.approx(
        expected["neg_log_perplexity"], rel=1e-5
    )
    sums = expected["sums"]
    for layer in SWITCH_LAYERS:
        tokens, dropped = sums[layer][:2]
        assert result["router"][layer]["dropped_fraction"] == pytest.approx(dropped / tokens)
        np.testing.assert_allclose(
            result["expert_load"][layer], sums[layer][6 : 6 + EXPERTS] / tokens, rtol=1e-6
        )
    dropped = sum(vector[1] for vector in sums.values())
    assert result["dropped_fraction"] == pytest.approx(
        dropped / sum(v[0] for v in sums.values())
    )


def test_another_task_split_and_number_of_batches(
    tiny: TinyRun, trained: Path, other_task: str, tmp_path: Path
) -> None:
    """Unlike in span corruption, most of these rows are padding."""
    model_dir = copy_of(trained, tmp_path / "run")
    whole = evaluate(tiny, model_dir, f"--task={other_task}")
    result = whole.result
    assert (result["examples"], result["limit"]) == (11, None)
    saved_config.load(str(model_dir), gin_params=[f"MIXTURE_NAME = {other_task!r}"])
    expected = by_hand(tiny, model_dir)
    examples = validation_examples(tiny.prepared()[0])
    unknown = np.count_nonzero(examples["targets"] == UNKNOWN)
    assert result["unknown_tokens"] == unknown > 0
    share = unknown / result["target_tokens"]
    assert f"\nunknown_tokens      {unknown} ({share:.1%} of the targets" in whole.outcome.out
    assert (result["task"], result["split"]) == (other_task, "validation")
    assert result["target_tokens"] == expected["target_tokens"]
    assert result["neg_log_perplexity"] == pytest.approx(
        expected["neg_log_perplexity"], rel=1e-5
    )

    gin.clear_config()
    (model_dir / "eval.json").write_text("the whole evaluation of its own task")
    capacity = "ExpertCapacity.capacity_factor_eval"
    arguments = ("--split=test", "--eval_batches=1", "--checkpoint_steps=3")
    arguments += (f"--gin_param={capacity} = 1.0",)
    part = evaluate(tiny, model_dir, f"--task={other_task}", *arguments)
    assert part.result["step"] == 3
    # So do TensorBoard's curves.
    curves = {path.name for path in model_dir.glob("eval_*")}
    name = f"{other_task}-test-first{BATCH}-{capacity}=1.0"
    assert curves == {f"eval_{other_task}", f"eval_{name}"}
    assert f"\nchanged             {capacity} = 1.0\n" in part.outcome.out
    assert f"{BATCH} (at most {BATCH} were read)" in part.outcome.out
    assert (model_dir / "eval.json").read_text() == "the whole evaluation of its own task"
    assert {whole.name, part.name} == {
        f"eval-{other_task}.json",
        f"eval-{name}-3.json",
    }
    first = part.result
    assert (whole.result["changes"], first["changes"]) == ({}, {capacity: "1.0"})
    assert (model_dir / f"perplexity-{name}.csv").exists()
    assert (first["examples"], first["limit"]) == (BATCH, BATCH)
    saved_config.load(str(model_dir), gin_params=[f"MIXTURE_NAME = {other_task!r}"])
    task = seqio.get_mixture_or_task(other_task)
    lengths = {"inputs": 32, "targets": 16}
    rows = list(
        task.get_dataset(lengths, "test", shuffle=False).take(BATCH).as_numpy_iterator()
    )
    assert first["split"] == "test"
    assert first["target_tokens"] == sum(len(row["targets"]) for row in rows)


def test_an_unknown_split_is_refused_with_those_that_there_are(
    tiny: TinyRun, trained: Path
) -> None:
    outcome = tiny.command("eval", f"--model_dir={trained}", "--split=tset")
    assert outcome.code == 1
    assert "'text_files' has no split 'tset'; it has train, validation" in outcome.err


def test_an_unknown_task_is_refused_with_the_nearest_names(
    tiny: TinyRun, trained: Path
) -> None:
    outcome = tiny.command("eval", f"--model_dir={trained}", "--task=text_fils")
    assert outcome.code == 1
    assert "no task or mixture 'text_fils'. The nearest names are: text_files" in outcome.err


def test_a_result_that_cannot_be_written_leaves_the_earlier_one(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtf_switch.runs import evaluation

    before = (evaluated.model_dir / "eval.json").read_bytes()
    result = evaluation.Evaluation(**{**evaluated.result, "task": object()})
    with pytest.raises(TypeError):
        evaluation.make_report(result).write(str(evaluated.model_dir))
    assert (evaluated.model_dir / "eval.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "eval"),
        ({"limit": 16}, "eval-first16"),
        ({"split": "test"}, "eval-test"),
        ({"task": "c4"}, "eval-c4"),
        ({"step": 100_000}, "eval-100000"),
        (
            {"step": 100_000, "task": "c4", "split": "test", "limit": 8},
            "eval-c4-test-first8-100000",
        ),
        ({"step": 100_000, "changes": {"a.b": "1.0"}}, "eval-a.b=1.0-100000"),
    ],
)
def test_only_a_whole_evaluation_of_the_latest_step_is_eval_json(
    changes: dict[str, Any], name: str
) -> None:
    from mtf_switch.runs import evaluation

    whole = evaluation.Evaluation(
        200_000, "own", "validation", -1.5, 0.5, 90, 0.0, {}, {}, {}, examples=9
    )
    result = dataclasses.replace(whole, **changes)
    assert evaluation.report_name(result, "own", latest_step=200_000) == name
