"""Every gin file parses, and every model has the parameters that its header states."""

from __future__ import annotations

import re
import types

import pytest

from mtf_switch import flops, model, run_config

FILES = sorted(
    path.relative_to(run_config.GIN_FOLDER) for path in run_config.GIN_FOLDER.rglob("*.gin")
)
# To be included after a model.
FRAGMENTS = (
    *("every_other_switch.gin", "experts_attention.gin", "experts_ff_and_attention.gin"),
)
MODELS = [path for path in FILES if path.parent.name == "models" and path.name not in FRAGMENTS]
STATED = re.compile(r"^# Parameters: ([\d,]+) \(vocabulary of ([\d,]+)", re.MULTILINE)


def _stated(path):
    """(parameters, vocabulary) of a header; sentinels are said apart from pieces."""
    header = (run_config.GIN_FOLDER / path).read_text()
    parameters, vocabulary = (int(n.replace(",", "")) for n in STATED.search(header).groups())
    return parameters, vocabulary + (100 if "100 sentinels" in header else 0)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_gin_file_has_a_header_and_parses(path):
    assert (run_config.GIN_FOLDER / path).read_text().startswith("# -*-Python-*-\n# ")
    model_file = ["models/t5_tiny.gin"] if path not in MODELS else []
    params = ["MIXTURE_NAME = 'a_task'"] if path.parent.name != "runs" else []
    if path.name in FRAGMENTS:
        params += ["num_experts = 2"]
    run_config.parse([*model_file, str(path)], params)


@pytest.mark.parametrize("path", MODELS, ids=str)
def test_a_model_has_the_parameters_that_its_header_states(path):
    parameters, vocabulary = _stated(path)
    run_config.parse(
        [str(path)],
        [
            "MIXTURE_NAME = 'a_task'",
            "utils.run.batch_size = 16",
            "utils.run.sequence_length = {'inputs': 32, 'targets': 32}",
        ],
    )
    settings = run_config.settings()
    sizes = types.SimpleNamespace(vocab_size=vocabulary)
    assert flops.count(model.build(settings, sizes), settings).parameters == parameters


def test_the_run_on_c4_is_the_papers():
    run_config.parse(["models/t5_base.gin", "runs/c4.gin"], [])
    settings = run_config.settings()
    assert settings.batch_size * settings.sequence_length["inputs"] == 2**20
    assert settings.train_steps == 550_000
    assert settings.sequence_length == {"inputs": 512, "targets": 114}
