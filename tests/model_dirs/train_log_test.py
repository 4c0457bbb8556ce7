"""`train_log.csv`: its content, and the moment when it is on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtf_switch.model_dirs import train_log
from mtf_switch.model_dirs.train_log import LoggedStep, TrainLog


def write(folder: Path, *steps: int, start: int = 0) -> TrainLog:
    """Logs steps of half a second, and leaves the log open."""
    log = TrainLog(str(folder), start)
    for step in steps:
        log.append(step, 0.5, loss=10.0 / step, dropped=0.25)
    return log


def test_what_is_logged_is_read_back(tmp_path: Path) -> None:
    write(tmp_path, 1, 2).close()
    assert (tmp_path / "train_log.csv").read_text().splitlines()[0] == (
        "step,seconds,loss,dropped_fraction,nats_per_token,validation,teacher_nats_per_token"
    )
    assert train_log.read(str(tmp_path)) == [
        LoggedStep(step=1, seconds=0.5, loss=10.0, dropped_fraction=0.25),
        LoggedStep(step=2, seconds=1.0, loss=5.0, dropped_fraction=0.25),
    ]


def test_a_model_without_switch_layers_has_no_dropped_fraction(tmp_path: Path) -> None:
    log = TrainLog(str(tmp_path), 0)
    log.append(1, 0.5, loss=10.0, dropped=None)
    log.close()
    assert train_log.read(str(tmp_path))[0].dropped_fraction is None


def test_no_log_has_no_steps(tmp_path: Path) -> None:
    assert train_log.read(str(tmp_path)) == []


def test_a_resumed_run_forgets_the_steps_that_it_does_again(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4, 5).close()
    write(tmp_path, 4, 5, 6, start=3).close()
    logged = train_log.read(str(tmp_path))
    assert [step.step for step in logged] == [1, 2, 3, 4, 5, 6]
    # Half a second for each step. Lost steps are not counted.
    assert [step.seconds for step in logged] == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3])


def test_every_step_is_on_the_disk_when_a_run_is_killed(tmp_path: Path) -> None:
    log = write(tmp_path, 1, 2, 3)
    assert [step.step for step in train_log.read(str(tmp_path))] == [1, 2, 3]
    log.close()


def test_a_run_killed_before_its_first_step_keeps_the_earlier_ones(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3).close()
    log = TrainLog(str(tmp_path), 3)
    assert [step.step for step in train_log.read(str(tmp_path))] == [1, 2, 3]
    log.close()


def test_a_line_that_a_full_disk_cut_off_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3).close()
    path = tmp_path / "train_log.csv"
    path.write_text(path.read_text()[:-8])
    assert [step.step for step in train_log.read(str(tmp_path))] == [1, 2]


def test_a_resumed_log_is_equal_in_bytes(tmp_path: Path) -> None:
    """This includes numbers that end in zeros, and empty columns."""
    for folder, starts in (("whole", [0]), ("resumed", [0, 2])):
        (tmp_path / folder).mkdir()
        for start in starts:
            log = TrainLog(str(tmp_path / folder), start)
            for step in range(start + 1, 5):
                log.append(step, 0.25, loss=10.0, dropped=None if step == 1 else 0.5)
            log.close()
    files = [(tmp_path / name / "train_log.csv").read_bytes() for name in ("whole", "resumed")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "row",
    [
        b"2,1.0,abc,0.5\r\n",
        b"2,1.0,nan,0.5\r\n",
        b"2,1.0,5.0\r\n",
        b"2,1.0,5.0,0.25,5.0,4.0,3.0,2.0\r\n",
        b"\x00\xff\xfe\r\n",
        b"1,1.0,5.0,0.25\r\n",
        b"\r\n",
        b"2,1.0,5.0,0.25",
    ],
)
def test_damaged_rows_are_set_aside_and_reported(
    tmp_path: Path, row: bytes, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path, 1).close()
    path = tmp_path / "train_log.csv"
    intact = path.read_bytes()
    path.write_bytes(intact + row)
    assert [step.step for step in train_log.read(str(tmp_path))] == [1]
    TrainLog(str(tmp_path), 3).close()
    assert path.read_bytes() == intact
    damaged = tmp_path / "train_log.damaged.csv"
    assert damaged.read_bytes() == row.rstrip(b"\r\n") + b"\n"
    assert capsys.readouterr().err == f"1 damaged row(s) of {path} are now in {damaged}.\n"


def test_a_log_that_is_not_a_file_is_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "train_log.csv"
    path.mkdir()
    write(tmp_path, 1).close()
    assert [step.step for step in train_log.read(str(tmp_path))] == [1]
    assert capsys.readouterr().err == f"{path} cannot be read; it is now {path}.damaged-1.\n"


def test_a_folder_elsewhere_gets_no_log() -> None:
    log = TrainLog("gs://bucket/run", 0)
    log.append(1, 0.5, loss=1.0, dropped=None)
    log.close()
    assert log.seconds == 0.5


@pytest.mark.parametrize("columns", [4, 5, 6, 7])
def test_the_header_of_every_version_is_no_damaged_row(
    tmp_path: Path, capsys: pytest.CaptureFixture, columns: int
) -> None:
    lines = [",".join(train_log.COLUMNS[:columns]), ",".join("1234567"[:columns]), ""]
    (tmp_path / "train_log.csv").write_bytes("\r\n".join(lines).encode())
    TrainLog(str(tmp_path), 1).close()
    assert [step.step for step in train_log.read(str(tmp_path))] == [1]
    assert not list(tmp_path.glob("*damaged*"))
    assert capsys.readouterr().err == ""


def test_a_log_of_an_earlier_version_gets_an_empty_column(tmp_path: Path) -> None:
    path = tmp_path / "train_log.csv"
    path.write_bytes(
        b"step,seconds,loss,dropped_fraction\r\n1,0.5,3.10,0.25\r\n2,1.0,3.0,0.2\r\n"
    )
    assert [step.loss for step in train_log.read(str(tmp_path))] == [3.1, 3.0]
    log = TrainLog(str(tmp_path), 1)
    numbers = {"nats_per_token": 4.5, "validation": 4.25, "teacher_nats_per_token": 4.75}
    log.append(2, 0.5, loss=3.0, dropped=0.25, **numbers)
    log.close()
    header, first, second = path.read_bytes().split(b"\r\n")[:3]
    assert header == ",".join(train_log.COLUMNS).encode()
    assert first == b"1,0.5,3.10,0.25,,,"
    assert second == b"2,1.0000,3.00000,0.25000,4.50000,4.25000,4.75000"
    assert [s.nats_per_token for s in train_log.read(str(tmp_path))] == [None, 4.5]
    assert [s.validation for s in train_log.read(str(tmp_path))] == [None, 4.25]
    assert [s.teacher_nats_per_token for s in train_log.read(str(tmp_path))] == [None, 4.75]
