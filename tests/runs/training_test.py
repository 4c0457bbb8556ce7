"""`run_switch.py train`: its files, how it continues, and how it stops."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_run import (
    BATCH,
    EXPERTS,
    FEW_LAYERS,
    INPUTS,
    SWITCH_LAYERS,
    TARGETS,
    TinyRun,
    contents,
    copy_of,
    variables,
)

from mtf_switch.config import gin_files
from mtf_switch.model_dirs import train_log

# The Switch layers of a model with FEW_LAYERS.
KERNEL = "encoder/block_000/layer_000/SwitchFFN/wi/kernel"
ROUTER_SCALARS = {
    *("dropped_fraction", "entropy", "gate", "aux_loss", "z_loss"),
    *("load_max_over_even", "load_min_over_even"),
}


def summaries(model_dir: Path) -> dict[str, list]:
    """Every value in the TensorBoard events of a model_dir, by tag."""
    found: dict[str, list] = {}
    for events in sorted(model_dir.glob("events.out.tfevents.*")):
        for event in tf.train.summary_iterator(str(events)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(value)
    return found


def test_a_run_leaves_checkpoints_configuration_log_and_events(trained: Path) -> None:
    files = contents(trained)
    for step in (0, 3, 6):
        assert f"model.ckpt-{step}.index" in files
    assert tf.train.latest_checkpoint(str(trained)) == str(trained / "model.ckpt-6")
    assert b"Exploration.jitter = 0.1\n" in files["config.gin"]
    # That file would lack all parameters of utils.run.
    assert "operative_config.gin" not in files
    with open(trained / "train_log.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == train_log.COLUMNS
    assert [int(row[0]) for row in rows] == [1, 2, 3, 4, 5, 6]
    logged = train_log.read(str(trained))
    assert np.all(np.diff([0.0, *(step.seconds for step in logged)]) > 0)
    assert all(np.isfinite(step.loss) for step in logged)
    assert all(0 <= step.dropped_fraction <= 1 for step in logged)


def test_events_hold_scalars_and_the_load_of_every_switch_layer(trained: Path) -> None:
    found = summaries(trained)
    for layer in SWITCH_LAYERS:
        for name in ROUTER_SCALARS:
            assert np.isfinite(found[f"{layer}/{name}"][0].simple_value)
        load = found[f"{layer}/expert_load"][0]
        # One histogram of the whole vector: its values are shares that add up to 1.
        assert load.histo.num == EXPERTS
        assert load.histo.sum == pytest.approx(1.0, abs=1e-6)
        # Multiples of the even share, 1 / E.
        for end, value in (("max", load.histo.max), ("min", load.histo.min)):
            ratio = found[f"{layer}/load_{end}_over_even"][0].simple_value
            assert ratio == pytest.approx(value * EXPERTS, rel=1e-6)
    of_layers = [tag for tag in found if tag.startswith(SWITCH_LAYERS)]
    assert len(of_layers) == len(SWITCH_LAYERS) * (len(ROUTER_SCALARS) + 1)
    # A run of 6 steps has a point for each of them.
    for tag in ("loss", "learning_rate", "gradient_norm", "nats_per_token"):
        assert len(found[tag]) == 6, tag
        assert all(np.isfinite(value.simple_value) for value in found[tag])
    logged = train_log.read(str(trained))
    speeds = [value.simple_value for value in found["steps_per_second"]]
    seconds = np.diff([0.0, *(step.seconds for step in logged)])
    # The log rounds to 0.0001 seconds.
    np.testing.assert_allclose(1 / np.array(speeds), seconds, atol=2e-4)
    tokens = [value.simple_value for value in found["tokens_per_second"]]
    np.testing.assert_allclose(tokens, np.array(speeds) * BATCH * (INPUTS + TARGETS), rtol=1e-6)


@pytest.mark.usefixtures("trained")  # otherwise this run would say that it prepares the corpus
def test_the_screen_shows_one_line_of_progress_and_where_the_run_is(
    tiny: TinyRun, tmp_path: Path
) -> None:
    """The real command in a separate process prints no logs of TensorFlow or Mesh TF."""
    arguments = tiny.train_arguments(tmp_path / "run", "--steps=2", params=FEW_LAYERS)
    environment = {**os.environ, **tiny.environment}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # the tests set it
    ran = subprocess.run(
        [sys.executable, "run_switch.py", *arguments],
        cwd=gin_files.REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    next_command = f"run_switch.py eval --model_dir={tmp_path}/run"
    assert ran.stdout == f"{tmp_path}/run is at step 2. Next: {next_command}\n"
    # tqdm redraws its line again and again.
    *corpus, states = ran.stderr.split("\n", 4)
    assert [line.split()[0] for line in corpus] == ["Text", "Vocabulary", "Context", "Cache"]
    *states, after = re.split(r"[\r\n]", states)[1:]
    assert after == ""
    for state in states:
        assert state.startswith("run: "), ran.stderr
    # The process has written all points of the curves, and no file that nothing reads.
    assert len(summaries(tmp_path / "run")["tokens_per_second"]) == 2
    names = os.listdir(tmp_path / "run")
    assert not [name for name in names if name.endswith((".meta", ".pbtxt"))]
    (events,) = (tmp_path / "run").glob("*tfevents*")
    # A graph has a megabyte. These points have some kilobytes.
    assert events.stat().st_size < 50_000
    last = states[-1]
    assert re.search(r"2/2 .*loss \d+\.\d+, [\d,]+ tokens/s, dropped \d+\.\d%", last)


def test_fewer_steps_leave_things_as_they_are(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    model_dir = copy_of(trained, tmp_path / "run")
    before = contents(model_dir)
    done = tiny.train(model_dir, "--steps=5")
    assert (done.code, done.out.split(".")[0]) == (0, f"{model_dir} is at step 6")
    assert contents(model_dir) == before


def test_another_configuration_is_refused_and_nothing_is_changed(
    tiny: TinyRun, trained: Path
) -> None:
    before = contents(trained)
    refused = tiny.train(trained, "--steps=8", params={"SwitchRouter.aux_loss_coef": "0.5"})
    assert refused.code == 1
    assert f"{trained} was made with another configuration" in refused.err
    assert "\n  +SwitchRouter.aux_loss_coef = 0.5\n" in refused.err
    assert "aux_loss_coef" in refused.err
    assert "-SwitchRouter" not in refused.err
    other_seed = tiny.train(trained, "--steps=8", "--seed=1")
    assert "\n  -seed.value = 0\n  +seed.value = 1\n" in other_seed.err
    assert contents(trained) == before


def test_a_loss_that_is_lost_stops_the_run_and_the_last_good_checkpoint_is_kept(
    tiny: TinyRun, tmp_path: Path
) -> None:
    """The weights with the bad loss were saved one step earlier. They are removed, too."""
    model_dir = tmp_path / "run"
    params = {
        **FEW_LAYERS,
        "utils.run.learning_rate_schedule": "1e30",
        "utils.run.save_checkpoints_steps": "1",
    }
    outcome = tiny.train(model_dir, "--steps=6", params=params)
    assert outcome.code == 1
    *_, message = outcome.err.strip().splitlines()
    stopped = re.search(r"The loss is (nan|inf) at step (\d+)\. Training stopped\.", message)
    step = int(stopped[2])
    assert step > 1
    assert outcome.err.endswith(f"\n{message}\n"), "the message is to have a line of its own"
    good = f"{model_dir}/model.ckpt-{step - 2}"
    assert f"The last good checkpoint is {good};" in message
    assert "in another --model_dir, with a lower learning rate or another --seed" in message
    assert f"utils.run.init_checkpoint = '{good}'" in message

    assert tf.train.latest_checkpoint(str(model_dir)) == good
    assert {int(p.stem.split("-")[1]) for p in model_dir.glob("*.index")} == set(
        range(step - 1)
    )
    assert [s.step for s in train_log.read(str(model_dir))] == list(range(1, step))
    evaluated = tiny.command("eval", f"--model_dir={model_dir}", "--eval_batches=1")
    assert evaluated.code == 0, evaluated.err
    # Its advice works.
    restarted = tiny.train(
        tmp_path / "restarted",
        "--steps=1",
        params={
            **FEW_LAYERS,
            "utils.run.init_checkpoint": repr(f"{model_dir}/model.ckpt-0"),
        },
    )
    assert restarted.code == 0, restarted.err
    started_from = variables(tmp_path / "restarted", 0)[KERNEL]
    np.testing.assert_array_equal(started_from, variables(model_dir, 0)[KERNEL])


def test_a_model_dir_below_a_file_is_refused(tiny: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = tiny.train(tmp_path / "file" / "run", "--steps=1")
    assert outcome.code == 1
    assert f"The model_dir {tmp_path}/file/run cannot be written" in outcome.err
    assert "Choose a folder that you may write to" in outcome.err


def test_a_corpus_that_matches_no_file_is_refused(tiny: TinyRun, tmp_path: Path) -> None:
    outcome = tiny.train(tmp_path / "run", "--steps=1", f"--corpus={tmp_path}/*.txt")
    assert outcome.code == 1
    assert f"No file matches '{tmp_path}/*.txt'" in outcome.err
    assert not (tmp_path / "run").exists()


def test_nothing_is_written_if_the_configuration_is_lost(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    """Otherwise the folder, without config.gin, would get the vocabulary of another run."""
    model_dir = copy_of(trained, tmp_path / "run")
    (model_dir / "config.gin").unlink()
    (model_dir / "vocabulary.model").write_bytes(b"of the run that is trained")
    (model_dir / "model.ckpt-9_temp").mkdir()
    (model_dir / "model.ckpt-9_temp" / "part").write_text("")
    before = contents(model_dir)
    outcome = tiny.train(model_dir, "--steps=8")
    assert outcome.code == 1
    assert f"{model_dir} has checkpoints, but its config.gin is lost" in outcome.err
    assert contents(model_dir) == before
