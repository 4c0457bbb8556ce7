"""How the process of a command ends."""

import os
import subprocess
import sys

import pytest

from mtf_switch.config import gin_files

# What Python promises for the end of a process; the object would be freed at the end.
PROGRAM = """
import atexit, gc, os, sys, threading, time
from mtf_switch.cli import process

class Freed:
    def __del__(self, write=os.write): write(1, b"freed")

def command():
    global kept
    kept = Freed()
    assert gc.get_threshold()[0] > 5_000
    atexit.register(print, "atexit 2")
    threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
    print("command")
    sys.stderr.write("no line end")
    {ends}

atexit.register(print, "atexit 1")
process.run(command)
"""


def run_program(ends, **settings):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{ends}", ends)],
        cwd=gin_files.REPOSITORY,
        text=True,
        stderr=subprocess.PIPE,
        timeout=60,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        **{"stdout": subprocess.PIPE, **settings},
    )


@pytest.mark.parametrize("code", [0, 3, 143])
def test_a_command_that_ends_does_what_python_promises_but_frees_nothing(code):
    done = run_program(f"return {code}")
    assert done.stdout.split("\n") == ["command", "thread", "atexit 2", "atexit 1", ""]
    assert (done.returncode, done.stderr) == (code, "no line end")


def test_an_exception_ends_the_process_as_usual():
    done = run_program("raise ValueError('no such thing')")
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: no such thing\n")
    assert "atexit 1" in done.stdout
    assert done.stdout.endswith("freed")


def test_arguments_that_are_refused_have_their_exit_code():
    assert run_program("sys.exit(2)").returncode == 2


def test_a_full_disk_behind_stdout_is_reported():
    with open("/dev/full", "w") as full:
        done = run_program("return 0", stdout=full)
    assert done.returncode == 120  # Python's own code for it
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    "ends", ["return 0", "print('x' * 1_000_000)", "raise BrokenPipeError"]
)
def test_a_reader_that_leaves_ends_a_command_without_a_traceback(ends):
    reading, writing = os.pipe()
    os.close(reading)
    done = run_program(ends, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "no line end")


def test_a_pipe_that_is_not_stdout_is_an_error():
    done = run_program("raise BrokenPipeError('a server')")
    assert "BrokenPipeError: a server" in done.stderr
    assert done.returncode == 1
