from __future__ import annotations

from importlib import metadata

import pytest

from mtf_switch.cli import main


def test_the_flag_prints_the_versions_and_the_commit(capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main.main(["--version"])
    assert exit_.value.code == 0
    own, *others = capsys.readouterr().out.splitlines()
    assert own.startswith("mtf_switch ")
    assert f"tensorflow {metadata.version('tensorflow')}" in others
    assert f"mesh-tensorflow {metadata.version('mesh-tensorflow')}" in others
    assert f"t5 {metadata.version('t5')}" in others
