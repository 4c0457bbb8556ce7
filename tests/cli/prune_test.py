"""`run_switch.py prune`: from a trained model to a smaller one that every command takes."""

from __future__ import annotations

import json
import types
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from tiny_run import (
    EXPERTS,
    SWITCH_LAYERS,
    TinyRun,
    copy_of,
    run_model,
    validation_examples,
    variables,
)

from mtf_switch.analysis.traced_model import TracedModel
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import saved_checkpoints


def prune(tiny: TinyRun, trained: Path, to: Path, *arguments: str):
    return tiny.command(
        "prune", f"--model_dir={trained}", f"--output_dir={to}", "--tokens=500", *arguments
    )


def test_a_pruned_model_is_a_model_of_its_own(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    to = tmp_path / "pruned"
    outcome = prune(tiny, trained, to, "--experts=2")
    assert outcome.code == 0, outcome.err
    report = json.loads((to / "prune.json").read_text(encoding="utf-8"))
    assert report["rank"] == "output_norm"
    assert sorted(report["layers"]) == sorted(SWITCH_LAYERS)
    before, after = variables(trained, 6), variables(to, 6)
    assert sum(found["tokens"] for found in report["layers"].values()) >= 500
    for layer, found in report["layers"].items():
        assert sum(found["share"]) == pytest.approx(1)
        best = np.argsort(found["output_norm"])[-2:]
        assert found["kept"] == sorted(best)
        name = f"{layer}/SwitchFFN/wi/kernel"
        np.testing.assert_array_equal(after[name], before[name][found["kept"]])
        assert " ".join(map(str, found["kept"])) in outcome.out
    outcome = tiny.command("eval", f"--model_dir={to}", "--eval_batches=1")
    assert outcome.code == 0, outcome.err


@pytest.mark.usefixtures("without_bars")
def test_tokens_count_without_a_bar(tiny: TinyRun, trained: Path, tmp_path: Path) -> None:
    outcome = prune(tiny, trained, tmp_path / "pruned", "--experts=2", "--rank=share")
    assert outcome.code == 0, outcome.err
    assert "The split train has" not in outcome.err
    report = json.loads((tmp_path / "pruned" / "prune.json").read_text(encoding="utf-8"))
    # No batch has more than 8 examples of 32 and 16 tokens.
    assert sum(found["tokens"] for found in report["layers"].values()) < 500 + 8 * (32 + 16)


@pytest.mark.slow
def test_one_expert_makes_a_dense_t5(tiny: TinyRun, trained: Path, tmp_path: Path) -> None:
    to = tmp_path / "dense"
    outcome = prune(tiny, trained, to, "--experts=1", "--rank=share", "--split=validation")
    assert outcome.code == 0, outcome.err
    settings, vocabulary = tiny.load(to)
    examples = validation_examples(settings)
    batch = {name: ids[:8] for name, ids in examples.items()}
    checkpoint = saved_checkpoints.find_latest(str(to))
    (ran,) = run_model(checkpoint, settings, vocabulary, [batch])
    assert ran.router_sums == {}
    assert np.isfinite(ran.logits).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            (f"--experts={EXPERTS}",),
            f"{EXPERTS} experts cannot be kept",
            marks=pytest.mark.slow,  # see tests/analysis/expert_ranking_test.py
        ),
        (("--experts=1", "--split=nope"), "nope"),
    ],
)
def test_mistakes_are_refused(
    tiny: TinyRun, trained: Path, tmp_path: Path, arguments, message
) -> None:
    outcome = prune(tiny, trained, tmp_path / "to", *arguments)
    assert outcome.code == 1
    assert message in outcome.err
    assert not (tmp_path / "to").exists()


def test_what_cannot_be_converted_is_refused_before_it_is_measured(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    model_dir = copy_of(trained, tmp_path / "copy")
    with open(model_dir / "config.gin", "a", encoding="utf-8") as file:
        file.write("encoder/SwitchFFN.activation = 'gelu'\n")
    with mock.patch.object(TracedModel, "trace", side_effect=AssertionError):
        outcome = prune(tiny, model_dir, tmp_path / "to", "--experts=2")
    assert outcome.code == 1
    assert "no format states two: such a model cannot be converted or pruned" in outcome.err


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        (
            "mtf_switch.conversion.mtf_checkpoint.MtfSource.__init__",
            {"side_effect": UserError("It has tensors that no T5 has.")},
            "It has tensors that no T5 has.",
        ),
        (
            "shutil.disk_usage",
            {"return_value": types.SimpleNamespace(free=0)},
            "has only 0.0 GiB free",
        ),
    ],
)
def test_a_model_that_cannot_be_written_is_refused_before_it_is_measured(
    tiny: TinyRun, trained: Path, tmp_path: Path, target, changes, message
) -> None:
    with (
        mock.patch(target, **changes),
        mock.patch.object(TracedModel, "trace", side_effect=AssertionError),
    ):
        outcome = prune(tiny, trained, tmp_path / "to", "--experts=2")
    assert outcome.code == 1
    assert message in outcome.err
    assert not (tmp_path / "to").exists()


def test_an_existing_folder_is_refused(tiny: TinyRun, trained: Path) -> None:
    outcome = prune(tiny, trained, trained, "--experts=1")
    assert outcome.code == 1
    assert "already exists" in outcome.err
