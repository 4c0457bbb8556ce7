"""Speeds measured side by side, with a program that stands in for training."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import threading
import time

import fake_runner
import pytest
from fake_runner import TINY, make_plan
from made_results import make_seeds

from mtf_switch.errors import Interrupted, UserError
from mtf_switch.model_dirs import run_lock
from mtf_switch.reproduction import (
    catalog,
    runner,
    scales,
    speed_measurement,
    speed_rounds,
    verdicts,
)
from mtf_switch.reproduction.effects import Factor, SpeedUp
from mtf_switch.reproduction.results_folder import ResultsFolder
from mtf_switch.reproduction.verdicts import Verdict

TABLE_2 = catalog.EXHIBITS["table_2"]
TRAININGS = TABLE_2.trainings
NAMES = [training.name for training in TRAININGS]


@pytest.fixture(autouse=True)
def _fakes(monkeypatch) -> None:
    fake_runner.replace(monkeypatch.setattr)


def measure(plan, trainings=TRAININGS, rounds=2, reruns=False) -> dict:
    speed_measurement.measure(plan, TABLE_2, trainings, rounds, reruns)
    return read(plan, rounds)


def read(plan, rounds=2) -> dict:
    return {n: speed_rounds.read(plan.folder, TABLE_2, n) for n in range(rounds)}


def make_round(seconds: dict[str, float]) -> speed_rounds.SpeedRound:
    hashes = {t.name: TINY.hash_configuration(t) for t in TRAININGS if t.name in seconds}
    return speed_rounds.SpeedRound("abc1234", "lock", "a machine", 4, hashes, seconds)


def test_rows_take_turns_in_each_round(tmp_path, monkeypatch) -> None:
    order = []
    spawn = runner._spawn

    def note(commands, log):
        (command,) = commands
        folder = next(part for part in command if part.startswith("--model_dir="))
        seed = next(part for part in command if part.startswith("--seed="))
        order.append((os.path.basename(folder), seed))
        return spawn(commands, log)

    monkeypatch.setattr(runner, "_spawn", note)
    rounds = measure(make_plan(tmp_path))
    # The second round goes in the reverse order, so that a drift favors no row.
    assert [name for name, _ in order] == [*NAMES, *reversed(NAMES)]
    assert [seed for _, seed in order] == ["--seed=0"] * 3 + ["--seed=1"] * 3
    for one in rounds.values():
        assert one.step_seconds == dict.fromkeys(NAMES, pytest.approx(0.1))
        assert (one.commit, one.steps) == ("abc1234", 4)
    # What is measured is not measured again.
    order.clear()
    assert measure(make_plan(tmp_path)) == rounds
    assert order == []


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity of cores")
def test_speeds_are_those_of_one_core(tmp_path, monkeypatch) -> None:
    cores = []
    spawn = runner._spawn

    def note(*args):
        cores.append(len(os.sched_getaffinity(0)))
        return spawn(*args)

    monkeypatch.setattr(runner, "_spawn", note)
    before = os.sched_getaffinity(0)
    (found,) = measure(make_plan(tmp_path), rounds=1).values()
    assert cores == [1] * len(NAMES)
    assert found.machine.startswith("one of ")
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("how", ["fail", "fail_late"])
def test_a_round_that_fails_leaves_those_before_it(tmp_path, monkeypatch, how) -> None:
    plan = make_plan(tmp_path)
    measure(plan, rounds=1)
    monkeypatch.setenv("FAKE_TRAINING", how)
    with pytest.raises(UserError, match=f"{NAMES[-1]} was not measured.*made of cheese"):
        measure(plan)
    assert read(plan)[1] is None
    monkeypatch.setenv("FAKE_TRAINING", "ok")
    assert None not in measure(plan).values()


def test_a_run_that_diverges_has_the_speed_of_its_steps(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_TRAINING", "diverge")
    (found,) = measure(make_plan(tmp_path), rounds=1).values()
    assert found.step_seconds[NAMES[0]] == pytest.approx(0.1)


def test_a_signal_ends_the_training(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_TRAINING", "wait")
    started = []
    spawn = runner._spawn
    monkeypatch.setattr(runner, "_spawn", lambda *a: started.append(spawn(*a)) or started[-1])

    def stop() -> None:
        while not started:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(Interrupted):
        measure(make_plan(tmp_path))
    assert started[0].returncode is not None


def test_more_rows_take_their_turns_with_those_that_were_measured(tmp_path, capsys) -> None:
    plan = make_plan(tmp_path)
    measure(plan, TRAININGS[:1], rounds=1)
    (found,) = measure(plan, TRAININGS[1:], rounds=1).values()
    assert list(found.step_seconds) == NAMES
    assert "other rows, or another configuration; it is now" in capsys.readouterr().err
    assert (tmp_path / "speeds" / "table_2-0.json.stale-1").exists()


def test_a_round_stays_until_it_is_measured_again(tmp_path, monkeypatch) -> None:
    plan = make_plan(tmp_path)
    before = measure(plan, TRAININGS[:1])
    monkeypatch.setenv("FAKE_TRAINING", "fail")
    with pytest.raises(UserError):
        measure(plan)
    assert read(plan) == before
    monkeypatch.setenv("FAKE_TRAINING", "ok")
    assert [set(one.step_seconds) for one in measure(plan).values()] == [set(NAMES)] * 2
    assert sorted(os.listdir(tmp_path / "speeds")) == [
        *("table_2-0.json", "table_2-0.json.stale-1"),
        *("table_2-1.json", "table_2-1.json.stale-1"),
    ]


def test_one_process_at_a_time_measures_speeds(tmp_path, monkeypatch, capsys) -> None:
    plan = make_plan(tmp_path)
    lock = run_lock.hold(str(tmp_path / "work" / "speeds"))
    lock.__enter__()
    written = make_round(dict.fromkeys(NAMES, 0.5))

    def sleep(seconds: float) -> None:
        # The other process has measured the rounds, and ends.
        speed_rounds.write(plan.folder, TABLE_2, 0, written)
        lock.__exit__(None, None, None)

    monkeypatch.setattr(speed_measurement.time, "sleep", sleep)
    assert measure(plan, rounds=1) == {0: written}
    assert capsys.readouterr().err.count("this one waits.") == 1


def test_the_training_of_a_killed_process_is_waited_for(tmp_path, monkeypatch) -> None:
    plan, model_dir = make_plan(tmp_path), tmp_path / "work" / "speeds" / NAMES[0]
    model_dir.mkdir(parents=True)
    left = [run_lock.hold(str(model_dir))]
    left[0].__enter__()
    sleep = time.sleep

    def end_the_training(seconds: float) -> None:
        if left:
            left.pop().__exit__(None, None, None)
        sleep(0.01)

    monkeypatch.setattr(speed_measurement.time, "sleep", end_the_training)
    assert measure(plan, rounds=1)[0] is not None
    assert not left
    assert os.listdir(tmp_path / "work" / "speeds") == ["log.txt"]


def test_a_training_of_one_step_has_a_speed(tmp_path, monkeypatch) -> None:
    scale = scales.choose("tiny", 1)
    folder = ResultsFolder(str(tmp_path), scale.label)
    plan = dataclasses.replace(make_plan(tmp_path), scale=scale, folder=folder)
    assert measure(plan, rounds=1)[0].steps == 3


def test_another_commit_is_measured_again_if_asked(tmp_path, capsys) -> None:
    measure(make_plan(tmp_path), rounds=1)
    later = dataclasses.replace(make_plan(tmp_path), commit="def5678")
    assert measure(later, rounds=1)[0].commit == "abc1234"
    assert measure(later, rounds=1, reruns=True)[0].commit == "def5678"
    assert "is of commit abc1234; it is now" in capsys.readouterr().err


def test_a_changed_configuration_has_no_speed(tmp_path) -> None:
    one = make_round(dict.fromkeys(NAMES, 0.1))
    assert one.find_step(TRAININGS[0], TINY) == 0.1
    assert one.find_step(TRAININGS[0], scales.choose("tiny", 8)) is None


@pytest.mark.parametrize(
    "change", [{"steps": "x"}, {"step_seconds": {"switch_8": 0}}, {"lock": None}, {"x": 1}]
)
def test_a_damaged_file_is_set_aside(tmp_path, capsys, change) -> None:
    plan = make_plan(tmp_path)
    measure(plan, rounds=1)
    path = tmp_path / "speeds" / "table_2-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert read(plan, 1) == {0: None}
    assert "is damaged" in capsys.readouterr().err
    assert (tmp_path / "speeds" / "table_2-0.json.damaged-1").exists()


def apply(rounds) -> dict:
    """Applies rounds to three seeds of each row, whose own times are all the same."""
    results = {
        row.name: make_seeds(-2.0, -2.0, -2.0, training=row.training.name)
        for row in TABLE_2.rows
    }
    return speed_rounds.apply(TABLE_2, results, rounds, TINY)


def test_speeds_are_those_of_the_round_of_the_seed() -> None:
    seconds = {"switch_8": 0.4, "switch_8_bfloat16": 0.2, "switch_8_selective": 0.1}
    assert sorted(seconds) == sorted(NAMES)
    rounds = {
        seed: make_round({n: s * (1 + seed) for n, s in seconds.items()}) for seed in (0, 2)
    }
    results = apply(rounds)
    # 32 examples of 64 tokens in a step of 1.2 seconds, and a training of 4 steps.
    found = results["float32"][2]
    assert found.metrics["examples_per_second"] == pytest.approx(32 / 1.2)
    assert found.metrics["tokens_per_second"] == pytest.approx(32 * 64 / 1.2)
    assert found.metrics["seconds"] == pytest.approx(4 * 1.2)
    assert [p.seconds for p in found.curve] == pytest.approx([0.0, 60.0, 120.0])
    assert found.metrics["quality"] == -2.0
    # Seed 1 has no round.
    assert "examples_per_second" not in results["float32"][1].metrics
    assert "seconds" not in results["float32"][1].metrics
    assert all(math.isnan(point.seconds) for point in results["float32"][1].curve)
    factor = Factor("selective", "float32", "examples_per_second").estimate(results)
    assert factor.center == pytest.approx(4.0)
    assert (factor.seeds, factor.left_out) == (2, 1)
    assert SpeedUp("selective", "float32", "seconds").estimate(results).center == pytest.approx(
        4.0
    )
    assert SpeedUp("selective", "float32").estimate(results).center == 1.0


def test_without_a_round_claims_about_speed_are_not_run() -> None:
    judged = verdicts.judge_all(TABLE_2, apply({}))
    of_speed = [one.verdict for one in judged if isinstance(one.claim.effect, Factor)]
    assert of_speed == [Verdict.NOT_RUN] * 2
    assert SpeedUp("selective", "float32", "seconds").estimate(apply({})) is None
    assert all(
        one.verdict is not Verdict.NOT_RUN
        for one in judged
        if not isinstance(one.claim.effect, Factor)
    )


def test_the_page_says_how_speeds_were_measured() -> None:
    def describe(*rounds, lock="lock") -> list[str]:
        return speed_rounds.describe(TABLE_2, dict(enumerate(rounds)), TINY, lock).splitlines()

    assert describe() == ["**Speeds** were not measured side by side yet."]
    one = make_round({"switch_8": 0.1})
    first, second, of_seconds = describe(one, one, dataclasses.replace(one, commit="def5678"))
    assert "of seeds 0, 1 are those" in first
    assert "of seed 2 are those" in second
    assert "4 steps each, at commit def5678, on a machine." in second
    assert "its steps times the median step" in of_seconds
    assert "at commit abc1234 and another requirements.txt, on" in describe(one, lock="b")[0]
    # Rounds of another configuration have no speed, and are not described as those of the page.
    other = dataclasses.replace(one, configurations=dict.fromkeys(NAMES, "x"))
    assert describe(one, other)[2:] == [
        "**Not used:** the speeds of seed 1 have another gin configuration."
    ]
    assert "not measured" in describe(other)[0]


def test_what_compares_times_is_measured_side_by_side() -> None:
    for exhibit in catalog.EXHIBITS.values():
        effects = [claim.effect for claim in exhibit.claims]
        of_time = any(getattr(effect, "axis", "") == "seconds" for effect in effects)
        of_speed = any(getattr(e, "metric", "") == "examples_per_second" for e in effects)
        is_plotted = "quality_by_second" in exhibit.plots
        if of_time or of_speed or is_plotted:
            assert exhibit.compares_speeds, exhibit.name
        if exhibit.compares_speeds:
            # A round runs one command for each row.
            assert {t.command for t in exhibit.trainings} == {"train"}, exhibit.name
            assert not any(t.sources for t in exhibit.trainings), exhibit.name
