"""The runner, with a program that stands in for training: kills, failures, shared folders."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_runner
import fake_training
import pytest
from fake_runner import TINY, make_plan, spawn
from made_results import make_result

from mtf_switch import whole_file
from mtf_switch.errors import Interrupted, UserError
from mtf_switch.model_dirs import run_lock
from mtf_switch.reproduction import runner
from mtf_switch.reproduction.exhibit import Training
from mtf_switch.reproduction.exhibits.trainings import SWITCH, T5
from mtf_switch.reproduction.jobs import Job, RunningJob

JOBS = [Job(T5, 0), Job(SWITCH, 0), Job(T5, 1)]
# Runs JOBS in the folder that its argument names; for tests with several processes.
PROGRAM = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(fake_runner.__file__).parent)]!r}
import runner_test
runner_test.fake_runner.replace(setattr)
runner_test.runner.run_all(runner_test.make_plan(sys.argv[1]), runner_test.JOBS)
"""


@pytest.fixture(autouse=True)
def _fakes(monkeypatch) -> None:
    fake_runner.replace(monkeypatch.setattr)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "trainings").iterdir())


def test_every_job_gets_its_result_and_its_model_dir_goes(tmp_path) -> None:
    runner.run_all(make_plan(tmp_path, at_once=2), JOBS)
    assert names(tmp_path) == ["switch_8-0.json", "t5-0.json", "t5-1.json"]
    assert list((tmp_path / "work").iterdir()) == []
    result = make_plan(tmp_path).folder.read(T5, 1)
    assert [(p.step, p.neg_log_perplexity) for p in result.curve] == [
        (0, -4.01),
        (2, -3.51),
        (4, -3.01),
    ]
    assert [p.seconds for p in result.curve] == [0.0, 0.2, 0.4]
    assert result.metrics["quality"] == -3.01
    # Half of the four steps: 0.3 and 0.4.
    assert result.metrics["dropped_training"] == pytest.approx(0.35)
    # 32 examples of 64 tokens in 0.1 seconds.
    assert result.metrics["examples_per_second"] == pytest.approx(320.0)
    assert result.metrics["tokens_per_second"] == pytest.approx(20_480.0)
    assert result.metrics["parameters"] == 10
    assert result.routers == {"layer": {"entropy": 1.5, "expert_load": [0.25, 0.75]}}
    assert (result.data_seed, result.weights_seed, result.diverged_at) == (1, 1, None)
    assert result.origin.jobs == 2
    assert result.commands[0].startswith("run_switch.py train --gin_file=scales/tiny.gin")
    assert "seed:data1+weights1" in result.signature


def test_model_dirs_stay_if_asked(tmp_path) -> None:
    runner.run_all(make_plan(tmp_path, keeps=True), JOBS[:1])
    (folder,) = (tmp_path / "work").iterdir()
    assert (folder / "model" / "config.gin").exists()


def test_a_run_that_diverges_has_its_curve_up_to_there(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_TRAINING", "diverge")
    runner.run_all(make_plan(tmp_path), JOBS[:1])
    result = make_plan(tmp_path).folder.read(T5, 0)
    assert result.diverged_at == 3
    assert [(p.step, p.neg_log_perplexity) for p in result.curve] == [(0, -4.0), (2, -3.5)]
    assert "quality" not in result.metrics
    assert result.metrics["examples_per_second"] == pytest.approx(320.0)
    assert "|steps:2|" in result.signature
    assert "|diverged:3|" in result.signature


def test_a_run_that_diverges_before_its_first_checkpoint_is_a_result(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINING", "diverge_at_once")
    runner.run_all(make_plan(tmp_path), JOBS[:1])
    result = make_plan(tmp_path).folder.read(T5, 0)
    assert (result.diverged_at, result.curve) == (3, [])


def test_a_run_whose_evaluation_is_not_finite_has_diverged(
    tmp_path, monkeypatch, capsys
) -> None:
    """The last update spoils the weights, and the loss of its step was computed before."""
    monkeypatch.setenv("FAKE_TRAINING", "spoil")
    runner.run_all(make_plan(tmp_path), JOBS)
    result = make_plan(tmp_path).folder.read(T5, 0)
    assert result.diverged_at == 4
    assert [(p.step, p.neg_log_perplexity) for p in result.curve] == [(0, -4.0), (2, -3.5)]
    assert "quality" not in result.metrics
    assert len(names(tmp_path)) == 3
    assert "eval-first1280-4.json: the negative log perplexity" in capsys.readouterr().err


def test_after_a_failure_nothing_starts_and_the_reason_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_TRAINING", "fail")
    with pytest.raises(UserError) as error:
        runner.run_all(make_plan(tmp_path), JOBS)
    text = str(error.value)
    assert text.startswith("1 failed: t5 seed 0 (run_switch.py: The disk is made of cheese.")
    assert "log.txt" in text
    assert "2 did not start" in text
    assert names(tmp_path) == []
    # The same command continues.
    monkeypatch.setenv("FAKE_TRAINING", "ok")
    runner.run_all(make_plan(tmp_path), JOBS)
    assert len(names(tmp_path)) == 3


def test_what_another_process_has_finished_is_not_run(tmp_path) -> None:
    plan = make_plan(tmp_path)
    plan.folder.write(make_result(-1.0, training="t5", scale=TINY.label), T5)
    runner.run_all(plan, JOBS)
    assert plan.folder.read(T5, 0).metrics["quality"] == -1.0
    assert len(names(tmp_path)) == 3


def test_a_job_that_another_process_holds_is_left_until_it_is_free(
    tmp_path, monkeypatch
) -> None:
    plan = make_plan(tmp_path)
    held = plan.folder.work_folder(T5, 0, plan.scale.hash_configuration(T5))
    lock = run_lock.hold(held)
    lock.__enter__()
    seen = []

    def spawn_and_see(commands, log):
        seen.append(commands[0][-1])
        if len(seen) == 2:
            lock.__exit__(None, None, None)
        return spawn(commands, log)

    monkeypatch.setattr(runner, "_spawn", spawn_and_see)
    runner.run_all(plan, JOBS)
    # The first job comes last.
    assert [Path(path).parent.name.rsplit("-", 1)[0] for path in seen] == [
        *("switch_8-0", "t5-1", "t5-0"),
    ]


def test_a_folder_that_cannot_be_made_is_a_failure_and_not_waited_for(tmp_path) -> None:
    plan = make_plan(tmp_path)
    (tmp_path / "work").write_text("")
    with pytest.raises(UserError, match=r"1 failed: t5 seed 0 .*cannot be written.*2 did not"):
        runner.run_all(plan, JOBS)


def test_a_lock_of_another_machine_is_named_while_it_is_waited_for(
    tmp_path, capsys, monkeypatch
) -> None:
    plan = make_plan(tmp_path)
    held = Path(plan.folder.work_folder(T5, 0, plan.scale.hash_configuration(T5)))
    held.mkdir(parents=True)
    lock = held / run_lock.FILE
    lock.write_text(json.dumps({"host": "another", "process": 1, "boot": "another"}))
    polls = []

    def sleep(seconds: float) -> None:
        polls.append(seconds)
        if len(polls) == 3:
            lock.unlink()

    monkeypatch.setattr(runner.time, "sleep", sleep)
    runner.run_all(plan, JOBS[:1])
    text = capsys.readouterr().err
    assert text.count(f"has {lock}. Remove it if that has ended.") == 1
    assert names(tmp_path) == ["t5-0.json"]


def test_a_result_that_cannot_be_written_is_a_failure_and_its_training_stays(
    tmp_path, monkeypatch
) -> None:
    def fill(path, text) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    plan, write = make_plan(tmp_path), whole_file.write_text
    monkeypatch.setattr(whole_file, "write_text", fill)
    with pytest.raises(UserError, match=r"t5-0\.json cannot be written: No space left"):
        runner.run_all(plan, JOBS[:1])
    monkeypatch.setattr(whole_file, "write_text", write)
    (folder,) = (tmp_path / "work").iterdir()
    assert (folder / "model" / "train_log.csv").exists()
    runner.run_all(plan, JOBS[:1])
    assert names(tmp_path) == ["t5-0.json"]


STUDENTS = [Training(name, source=SWITCH, command="distil") for name in ("first", "second")]


def test_the_next_student_starts_when_its_teacher_is_trained(tmp_path) -> None:
    plan, waiting = make_plan(tmp_path), [Job(student, 0) for student in STUDENTS]
    first = runner._start_next(plan, waiting).running
    teacher, distil, _ = plan.scale.make_commands(STUDENTS[0], 0, first.model_dir)
    assert (teacher[0], distil[0]) == ("train", "distil")
    # The fake trains the teacher alone.
    assert first.process.wait(timeout=60) == 0
    first.release_sources()
    assert first.describe() == "first seed 0 (its source first)"
    assert runner._start_next(plan, waiting).running is None
    first.process = spawn([distil, []], first.log)
    assert first.process.wait(timeout=60) == 0
    first.release_sources()
    assert first.describe() == "first seed 0"
    second = runner._start_next(plan, waiting).running
    assert (second.job.training, waiting) == (STUDENTS[1], [])
    second.process.wait(timeout=60)
    second.resources.close()
    assert runner._finish(plan, first) == []


@pytest.mark.parametrize("keeps", [False, True])
def test_a_teacher_that_is_a_row_is_trained_once(tmp_path, monkeypatch, keeps) -> None:
    trained = []

    def spawn_each(commands, log):
        *sources, make, evaluate = commands
        trained.extend(command[-1] for command in (*sources, make))
        return spawn([make, evaluate], log)

    monkeypatch.setattr(runner, "_spawn", spawn_each)
    jobs = [Job(SWITCH, 0), *(Job(student, 0) for student in STUDENTS), Job(SWITCH, 1)]
    runner.run_all(make_plan(tmp_path, keeps=keeps), jobs)
    assert len(names(tmp_path)) == 4
    teacher, *after_first, other_seed = (Path(flag.split("=")[1]).parent for flag in trained)
    assert teacher.name.startswith("source_switch_8-0-")
    assert [folder.name.split("-")[0] for folder in after_first] == [
        *("source_switch_8", "first", "source_switch_8", "second"),
    ]
    assert after_first[0] == after_first[2] == teacher
    # Nothing starts from the other seed.
    assert other_seed.name.startswith("switch_8-1-")
    assert teacher.is_dir()
    assert other_seed.is_dir() == keeps


def test_a_folder_of_a_source_serves_a_later_row(tmp_path) -> None:
    plan = make_plan(tmp_path)
    model_dir = plan.scale.source_folder(SWITCH, 0, str(tmp_path / "work" / "any" / "model"))
    os.makedirs(model_dir)
    runner.run_all(plan, [Job(SWITCH, 0)])
    assert names(tmp_path) == ["switch_8-0.json"]
    assert os.path.isfile(os.path.join(model_dir, "config.gin"))


def test_a_student_waits_while_another_process_has_its_teacher(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "_spawn", lambda commands, log: spawn(commands[-2:], log))
    student, plan = Job(STUDENTS[0], 0), make_plan(tmp_path)
    teacher = plan.scale.source_folder(SWITCH, 0, str(tmp_path / "work" / "any" / "model"))
    waiting = [student, Job(T5, 0)]
    with run_lock.hold(os.path.dirname(teacher)):
        other = runner._start_next(plan, waiting).running
        assert (other.job, waiting) == (Job(T5, 0), [student])
        assert runner._start_next(plan, waiting).running is None
    later = runner._start_next(plan, waiting).running
    assert (later.job, waiting) == (student, [])
    for one in (other, later):
        one.process.wait(timeout=60)
        assert runner._finish(plan, one) == []
    assert names(tmp_path) == ["first-0.json", "t5-0.json"]


def test_two_processes_share_a_folder(tmp_path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, text = process.communicate(timeout=120)
        assert process.returncode == 0, text
    assert names(tmp_path) == ["switch_8-0.json", "t5-0.json", "t5-1.json"]


def wait_for(path: Path) -> None:
    began = time.monotonic()
    while not path.exists():
        assert time.monotonic() - began < 120, path
        time.sleep(0.05)


def test_a_killed_process_continues(tmp_path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {**os.environ, "FAKE_TRAINING": "wait"}
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    plan = make_plan(tmp_path)
    folder = Path(plan.folder.work_folder(T5, 0, plan.scale.hash_configuration(T5)))
    wait_for(folder / "log.txt")
    killed.kill()
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    runner.run_all(plan, JOBS)
    assert len(names(tmp_path)) == 3


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Interrupted), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_ends_the_processes_of_the_jobs(tmp_path, monkeypatch, number, error) -> None:
    monkeypatch.setenv("FAKE_TRAINING", "wait")
    started = []

    def spawn_and_stop(commands, log):
        started.append(spawn(commands, log))
        os.kill(os.getpid(), number)
        return started[-1]

    monkeypatch.setattr(runner, "_spawn", spawn_and_stop)
    with pytest.raises(error):
        runner.run_all(make_plan(tmp_path), JOBS)
    assert [process.wait(timeout=60) for process in started] == [-signal.SIGTERM]


def test_the_steps_of_the_bar_come_from_the_log(tmp_path) -> None:
    fake_training.write_model_dir(str(tmp_path / "model"), seed=0)
    running = RunningJob(JOBS[0], str(tmp_path), False, None, None, None, None)
    assert running.count_steps() == 4
    (tmp_path / "model" / "train_log.csv").write_text("step,seconds\r\n")
    assert running.count_steps() == 0
