"""Random command lines: each succeeds or is refused in one sentence, and none hangs."""

from __future__ import annotations

import collections

import hypothesis
import pytest
from fuzzed_commands import REFUSED, WORKING, CommandLine, command_lines, parsers
from fuzzed_folder import FuzzedFolder

# The number of command lines in the slow test.
CASES = 1500


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> FuzzedFolder:
    """The files that command lines may name."""
    fuzzed = FuzzedFolder(tiny, tmp_path_factory.mktemp("fuzz"))
    fuzzed.prepare()
    return fuzzed


def fuzz(folder: FuzzedFolder, cases: int, builds_graphs: bool = False) -> collections.Counter:
    """Runs random command lines, and counts the ways in which they end."""
    counts = collections.Counter()

    @hypothesis.settings(max_examples=cases)
    @hypothesis.given(command_lines(folder.trees, builds_graphs))
    def check(command: CommandLine) -> None:
        verdict = folder.run(command)
        counts[verdict.outcome] += 1
        assert not verdict.fault, (command, verdict.fault)

    check()
    return counts


def test_command_lines_that_work_reach_their_model_or_finish(folder: FuzzedFolder) -> None:
    ends = {" ".join(a): folder.run(CommandLine(a, {})) for a in WORKING}
    for arguments, verdict in ends.items():
        assert verdict.outcome in ("reached", "finished"), (arguments, verdict)
    assert {arguments[0] for arguments in [*WORKING, REFUSED]} == set(parsers())


def test_drawn_command_lines(folder: FuzzedFolder) -> None:
    fuzz(folder, 40)


@pytest.mark.slow
def test_many_drawn_command_lines(folder: FuzzedFolder, capsys) -> None:
    counts = fuzz(folder, CASES, builds_graphs=True)
    with capsys.disabled():
        print(f"\n{sum(counts.values())} command lines: {dict(counts)}")
    assert sum(counts.values()) >= 1000
    assert counts["reached"] + counts["finished"] > CASES / 10
