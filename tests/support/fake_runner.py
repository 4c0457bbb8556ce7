"""A runner of `reproduce` whose program stands in for training."""

from __future__ import annotations

import json
import subprocess
import sys

import fake_training

from mtf_switch.reproduction import runner, scales
from mtf_switch.reproduction.results_folder import ResultsFolder
from mtf_switch.reproduction.runner import Plan

# As many steps as the program that stands in for training makes.
TINY = scales.choose("tiny", fake_training.STEPS)
_COST = {"parameters": 10, "flops_per_token": 20.0}


def spawn(commands, log) -> subprocess.Popen:
    """Starts the program that stands in for training."""
    command = [sys.executable, "-S", fake_training.__file__, json.dumps(commands)]
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def replace(set_attribute) -> None:
    """Replaces what needs TensorFlow, with `setattr` or that of monkeypatch."""
    set_attribute(runner, "_spawn", spawn)
    set_attribute(runner, "_POLL_SECONDS", 0.02)


def make_plan(folder, keeps: bool = False, at_once: int = 1) -> Plan:
    """Makes the plan of a new folder of results."""
    results = ResultsFolder(str(folder), TINY.label)
    plan = Plan(TINY, results, at_once, keeps, "abc1234", lambda _: _COST)
    plan.folder.prepare()
    return plan
