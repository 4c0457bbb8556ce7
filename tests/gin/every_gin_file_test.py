"""Every gin file parses and has a header."""

from __future__ import annotations

import pytest
from model_files import FILES, MODELS, read_header

from mtf_switch.config import bound_settings, gin_config


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_gin_file_has_a_header_and_parses(path):
    text = read_header(path)
    assert text.startswith("# -*-Python-*-\n# ")
    assert not [line for line in text.splitlines() if line[:1] == "#" and len(line) > 100]
    # The project registers its names itself.
    assert not [line for line in text.splitlines() if line.startswith(("import", "from"))]
    assert path.parent.name != "runs" or "\n# Override: " in text
    model_file = ["models/switch_tiny.gin"] if path not in MODELS else []
    params = ["MIXTURE_NAME = 'a_task'"] if path.parent.name != "runs" else []
    gin_config.parse([*model_file, str(path)], params)


def test_the_run_on_c4_is_the_papers():
    gin_config.parse(["models/t5_base.gin", "runs/c4.gin"], [])
    settings = bound_settings.read_settings()
    assert settings.batch_size * settings.sequence_length["inputs"] == 2**20
    assert settings.train_steps == 550_000
    assert settings.sequence_length == {"inputs": 512, "targets": 114}
