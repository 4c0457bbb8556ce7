"""The lock of a model_dir: when a run is refused, and when it replaces an old lock."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import TinyRun, contents

from mtf_switch.errors import UserError
from mtf_switch.model_dirs import run_lock


def write_lock(folder: Path, host: str, process: int, boot: str) -> Path:
    path = folder / run_lock.FILE
    path.write_text(json.dumps({"host": host, "process": process, "boot": boot}))
    return path


def dead_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_the_lock_names_its_process_and_goes_with_it(tmp_path: Path) -> None:
    model_dir = tmp_path / "run"
    with run_lock.hold(str(model_dir)):
        owner = json.loads((model_dir / run_lock.FILE).read_text())
        assert (owner["host"], owner["process"]) == (socket.gethostname(), os.getpid())
    assert list(model_dir.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_a_second_run_is_refused_in_one_sentence(
    tiny: TinyRun, tmp_path: Path, command: str
) -> None:
    arguments = {
        "train": tiny.train_arguments(tmp_path),
        "finetune": ["finetune", "--task=t", "--init_checkpoint=c", f"--model_dir={tmp_path}"],
    }
    with run_lock.hold(str(tmp_path)):
        before = contents(tmp_path)
        outcome = tiny.command(*arguments[command])
        assert outcome.code == 1
        assert outcome.err == (
            f"run_switch.py: Process {os.getpid()} on {socket.gethostname()} trains in "
            f"{tmp_path}: wait until it has ended or choose another --model_dir.\n"
        )
        with pytest.raises(UserError, match="trains in"), run_lock.hold(str(tmp_path)):
            pass
        assert contents(tmp_path) == before


@pytest.mark.parametrize("content", ["dead process", "", "{"])
def test_what_a_killed_run_left_is_taken_over(tmp_path: Path, content: str) -> None:
    path = write_lock(tmp_path, socket.gethostname(), dead_process(), "")
    if content != "dead process":
        path.write_text(content)
    run_lock.check_free(str(tmp_path))
    with run_lock.hold(str(tmp_path)):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert not path.exists()


def test_a_dead_container_of_this_machine_is_recognised(tmp_path: Path) -> None:
    boot = run_lock.Owner.this_process().boot
    if not boot:
        pytest.skip("this system does not identify its kernel")
    write_lock(tmp_path, "another-container", 1, boot)
    with run_lock.hold(str(tmp_path)):
        pass


def test_a_lock_of_another_machine_stays_and_the_message_says_what_to_do(
    tmp_path: Path,
) -> None:
    path = write_lock(tmp_path, "elsewhere", 7, "another boot")
    with pytest.raises(UserError) as caught, run_lock.hold(str(tmp_path)):
        pass
    assert str(caught.value) == (
        f"Process 7 on elsewhere trains in {tmp_path}: wait until it has ended or choose another "
        f"--model_dir. If it has ended, remove {path}."
    )
    assert path.exists()


def test_without_locks_in_the_file_system_the_process_has_to_be_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_):
        raise OSError("No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    write_lock(tmp_path, socket.gethostname(), os.getpid(), "")
    with pytest.raises(UserError, match="trains in"), run_lock.hold(str(tmp_path)):
        pass
    write_lock(tmp_path, socket.gethostname(), dead_process(), "")
    with run_lock.hold(str(tmp_path)):
        pass


def test_a_bucket_has_no_lock() -> None:
    with run_lock.hold("gs://bucket/run"):
        pass


def test_a_lock_whose_file_was_removed_in_the_meantime_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, files = run_lock._lock, []

    def lock_and_remove(file, model_dir):
        lock(file, model_dir)
        files.append(file)
        if len(files) == 1:  # the run that had it ended
            (tmp_path / run_lock.FILE).unlink()

    monkeypatch.setattr(run_lock, "_lock", lock_and_remove)
    with run_lock.hold(str(tmp_path)):
        assert len(files) == 2
        assert (tmp_path / run_lock.FILE).exists()


def test_a_lock_that_is_gone_when_it_is_looked_at_is_free(tmp_path: Path, monkeypatch) -> None:
    """The other run ends between two system calls."""
    path = write_lock(tmp_path, socket.gethostname(), os.getpid(), "")
    real_open = open

    def open_what_is_gone(name, *arguments, **options):
        path.unlink(missing_ok=True)
        return real_open(name, *arguments, **options)

    monkeypatch.setattr("builtins.open", open_what_is_gone)
    run_lock.check_free(str(tmp_path))


def test_what_cannot_be_a_model_dir_is_not_locked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "run" / run_lock.FILE).mkdir(parents=True)
    for model_dir in (
        tmp_path / "file",
        tmp_path / "none",
        tmp_path / "run",
        "gs://bucket/run",
    ):
        run_lock.check_free(str(model_dir))
