"""The estimate of `reproduce --list`, against times computed by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest
from made_results import make_result

from mtf_switch.reproduction import listing, origins, runner, scales, step_time
from mtf_switch.reproduction.catalog import EXHIBITS
from mtf_switch.reproduction.exhibits.trainings import SWITCH, T5
from mtf_switch.reproduction.results_folder import ResultsFolder
from mtf_switch.reproduction.runner import Plan
from mtf_switch.reproduction.step_time import StepTime

TINY = scales.choose("tiny")
SMALL = scales.choose("small")
STUDENT = EXHIBITS["table_6"].find_row("distillation").training


def make_plan(path) -> Plan:
    folder = ResultsFolder(str(path), "tiny")
    return Plan(TINY, folder, 1, False, "abc1234", lambda _: {})


def make_step_time(**flops: float) -> StepTime:
    """10 seconds for a start, and 1e-6 seconds for a FLOP."""
    of = {"t5": T5, "switch": SWITCH, "student": STUDENT}
    hashes = {TINY.hash_configuration(of[name]): value for name, value in flops.items()}
    return StepTime(origins.describe_machine(), 10.0, 1e-6, hashes)


def test_a_training_takes_the_time_of_its_flops() -> None:
    measured = make_step_time(t5=10.0, switch=20.0, student=10.0)
    # 32 examples of 32 + 32 tokens, at 3 x 10 FLOPs: 0.06144 s a step. The 11 evaluations of 40
    # batches cost a third of as many steps.
    tokens = TINY.count_examples(T5) * TINY.count_tokens(T5)
    steps = 4000 + 11 * 40 / 3
    assert measured.estimate(TINY, T5) == pytest.approx(10 + steps * 30e-6 * tokens)
    assert measured.estimate(TINY, SWITCH) == pytest.approx(10 + steps * 60e-6 * tokens)
    # A student also pays the forward pass of its teacher.
    assert measured.estimate(TINY, STUDENT) == pytest.approx(10 + steps * 50e-6 * tokens)
    # What was measured replaces the FLOPs.
    assert measured.estimate(TINY, T5, 0.5) == pytest.approx(10 + steps * 0.5)


@pytest.fixture
def _fake_training(monkeypatch):
    """A training of 40 steps that takes 100 seconds, and of which a step takes 0.5 s."""
    clock = iter([1000.0, 1100.0])

    def make_up(plan, jobs) -> None:
        (job,) = jobs
        assert (plan.scale.steps, job.training) == (40, T5)
        speed = {"examples_per_second": 64.0, "flops_per_token": 10.0}
        plan.folder.write(make_result(0.0, 0, "t5", scale="tiny, 40 steps", **speed), T5)

    monkeypatch.setattr(runner, "run_all", make_up)
    monkeypatch.setattr(step_time.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(step_time.cost, "count_flops", lambda files, params: 10.0)


@pytest.mark.usefixtures("_fake_training")
def test_a_short_training_measures_the_machine_once(tmp_path, capsys) -> None:
    plan = make_plan(tmp_path)
    found = step_time.read_or_measure(plan, [TINY], [T5, STUDENT])
    # 40 steps and 11 evaluations of 40 batches.
    assert found.start_seconds == pytest.approx(100 - 0.5 * (40 + 11 * 40 / 3))
    tokens = TINY.count_examples(T5) * TINY.count_tokens(T5)
    assert found.seconds_per_flop == pytest.approx(0.5 / (3 * 10 * tokens))
    wanted = [T5, STUDENT, STUDENT.source]
    assert set(found.flops_per_token) == {TINY.hash_configuration(t) for t in wanted}
    assert "measures the speed of this machine, once" in capsys.readouterr().err
    # The clock of the fixture has no third reading: it is not measured again.
    assert step_time.read_or_measure(plan, [TINY], [T5]) == found
    more = step_time.read_or_measure(plan, [TINY, SMALL], [T5])
    assert SMALL.hash_configuration(T5) in more.flops_per_token


@pytest.mark.usefixtures("_fake_training")
@pytest.mark.parametrize(
    "change",
    [
        *({"machine": "another one"}, {"start_seconds": "x"}, {"seconds_per_flop": 0}),
        *({"start_seconds": float("nan")}, None),
    ],
)
def test_what_another_machine_measured_or_is_damaged_is_measured_again(
    tmp_path, change
) -> None:
    path = tmp_path / "work" / "step_time.json"
    path.parent.mkdir()
    content = {**dataclasses.asdict(make_step_time(t5=1.0)), **(change or {})}
    path.write_text(json.dumps(content if change else [content]))
    found = step_time.read_or_measure(make_plan(tmp_path), [TINY], [T5])
    assert found.machine == origins.describe_machine()
    assert found.start_seconds != 10.0
    assert json.loads(path.read_text()) == dataclasses.asdict(found)


def test_trainings_of_earlier_exhibits_are_needed() -> None:
    needs = listing.find_needs(list(EXHIBITS.values()))
    assert needs["figure_1"] == "-"
    assert needs["figure_4"] == "trainings: 9 of figure_1"
    assert needs["figure_6"] == "trainings: 3 of figure_1"
    assert needs["table_6"] == "trainings: 2 of figure_1"
    assert needs["table_5"] == "trainings: 2 of table_4"
    assert needs["figure_8"].startswith("make install-multilingual; trainings: 2 of figure_7")


def test_the_list_counts_each_training_and_each_teacher_once() -> None:
    exhibits = [EXHIBITS[name] for name in ("figure_12", "table_6")]
    trainings = list(dict.fromkeys(t for e in exhibits for t in e.trainings))
    flops = {TINY.hash_configuration(t): 1.0 for t in trainings}
    # No time but that of a start, 1000 s.
    measured = StepTime("m", 1000.0, 1e-15, flops)
    results = {training: {} for training in trainings}
    results[T5] = {0: make_result(training="t5", seconds=50.0)}
    work = listing.Workload(results, TINY, [TINY], 2, measured)
    text = listing.format_list(exhibits, work, "a_file")
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    # Four trainings with two seeds. That with a result has its own step of 0.5 s: 4147 steps.
    assert lines["figure_12"][1:5] == ["4", "2", "1", "of"]
    assert lines["figure_12"][5:8] == ["8", "3.4", "h"]
    assert lines["figure_12"][8:10] == ["2.5", "h"]
    # 14 trainings, the sources among them: 26 x 1000 s, and T5 for both seeds, 3073 s each.
    assert lines["table_6"][6:8] == ["8.9", "h"]
    # T5 of seed 0 is done, but its model is gone, and two controls start from it.
    assert lines["table_6"][8:10] == ["8.9", "h"]
    # 16 trainings: 30 x 1000 s, and the same.
    assert lines["all"][5:8] == ["32", "10.0", "h"]
    # Where nothing starts from T5, its seed that is done is not left.
    results[T5][1] = make_result(training="t5", seed=1, seconds=50.0)
    text = listing.format_list(exhibits[:1], work, "a_file")
    (line,) = (line.split() for line in text.splitlines() if line.startswith("figure_12"))
    assert line[8:10] == ["1.7", "h"]
    assert "section_2_4 (table_2, table_3, table_4)" in text
