"""What a command has changed in the configuration of a model_dir."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtf_switch.config import changed_bindings, gin_config, saved_config

CAPACITY = "ExpertCapacity.capacity_factor_eval"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("changed")
    params = [f"{CAPACITY} = 1.5", "dropout_rate = 0.1"]
    gin_config.parse(["models/switch_tiny.gin", "runs/embedded.gin"], params)
    text = gin_config.to_text()
    # An earlier version whose defaults had no such binding.
    assert "SwitchAttention.hidden_size = %d_ff\n" in text
    text = text.replace("SwitchAttention.hidden_size = %d_ff\n", "")
    (folder / "config.gin").write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("params", "changes"),
    [
        ([], {}),
        # The value that it has, of a parameter and of a macro.
        ([f"{CAPACITY} = 1.5", "dropout_rate = 0.1"], {}),
        ([f"{CAPACITY} = 1.0"], {CAPACITY: "1.0"}),
        # The full name.
        ([f"mtf_switch.layers.capacity.{CAPACITY} = 1.0"], {CAPACITY: "1.0"}),
        # A parameter that config.gin does not bind.
        (
            ["ExpertCapacity.min_expert_capacity = 8"],
            {"ExpertCapacity.min_expert_capacity": "8"},
        ),
        # What makes the batches.
        (["utils.run.batch_size = 1"], {"run.batch_size": "1"}),
        (["utils.run.batch_size = ('sequences_per_batch', 64)"], {}),
        (
            ["utils.run.sequence_length = {'inputs': 16, 'targets': 8}"],
            {"run.sequence_length": "{'inputs': 16, 'targets': 8}"},
        ),
        (["utils.run.model_type = 'lm'"], {"run.model_type": "'lm'"}),
        (["mesh_eval_dataset_fn.seed = 3"], {"mesh_eval_dataset_fn.seed": "3"}),
        (["mesh_eval_dataset_fn.pack = True"], {"mesh_eval_dataset_fn.pack": "True"}),
        # What the names of results state on their own, and how the run is trained.
        (
            [
                *("MIXTURE_NAME = 'text_files'", "mesh_eval_dataset_fn.num_eval_examples = 5"),
                *("run_config.seed.value = 5", "utils.run.train_steps = 3"),
                *("utils.run.mesh_shape = 'data:2'", "utils.run.autostack = True"),
                *("utils.run.optimizer = @LeanAdafactor", "utils.run.init_checkpoint = 'x'"),
                *("Bitransformer.decode.beam_size = 4", "devices.value = 2"),
            ],
            {},
        ),
    ],
)
def test_only_changes_that_decide_results_are_found(model_dir, params, changes) -> None:
    saved_config.load(model_dir, gin_params=params)
    assert changed_bindings.find(model_dir) == changes


def test_other_examples_under_the_name_of_the_runs_own_files_are_a_change(
    tmp_path: Path,
) -> None:
    own = ["MIXTURE_NAME = 'a'", "own_data.name = 'a'", "own_data.train_file = '/a.tsv'"]
    gin_config.parse(["models/switch_tiny.gin", "runs/embedded.gin"], own)
    (tmp_path / "config.gin").write_text(gin_config.to_text())

    def find(*params: str) -> dict[str, str]:
        saved_config.load(str(tmp_path), gin_params=params)
        return changed_bindings.find(str(tmp_path))

    assert find() == find("own_data.train_file = '/a.tsv'", "own_data.metrics = ['f1']") == {}
    changes = find("own_data.train_file = '/b.tsv'", "own_data.prefix = 'x: '")
    assert changes == {"own_data.train_file": "'/b.tsv'", "own_data.prefix": "'x: '"}
    assert find("own_data.name = 'b'", "own_data.train_file = '/b.tsv'") == {}


def test_the_data_can_be_left_out() -> None:
    changes = {"own_data.prefix": "'x: '", "mesh_eval_dataset_fn.seed": "3", "a.b": "1"}
    assert changed_bindings.leave_out_data(changes) == {"a.b": "1"}


def test_a_macro_is_found_in_each_parameter_that_it_sets(model_dir) -> None:
    saved_config.load(model_dir, gin_params=["dropout_rate = 0.3"])
    found = changed_bindings.find(model_dir)
    assert found["SwitchFFN.expert_dropout_rate"] == "0.3"
    assert set(found.values()) == {"0.3"}


def test_a_gin_file_changes_it_as_well(model_dir, tmp_path: Path) -> None:
    file = tmp_path / "small.gin"
    file.write_text(f"ExpertCapacity.min_expert_capacity = 2\n{CAPACITY} = 1.25\n")
    saved_config.load(model_dir, [str(file)], [f"{CAPACITY} = 1.5"])
    assert changed_bindings.find(model_dir) == {"ExpertCapacity.min_expert_capacity": "2"}


def test_a_folder_without_a_configuration_has_no_changes(tmp_path: Path) -> None:
    assert changed_bindings.find(str(tmp_path / "no")) == {}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, ""),
        ({"a.b": "1.0", "c.d": "'bfloat16'"}, "a.b=1.0-c.d=bfloat16"),
        ({"a.b": "-1e-05"}, "a.b=-1e-05"),
        ({"a.b": "'x/y'"}, "changed-"),
        ({"a.b": "None", "c" * 80: "1"}, "changed-"),
    ],
)
def test_a_name_of_files_states_the_changes_or_their_hash(changes, name) -> None:
    found = changed_bindings.name_files(changes)
    if name == "changed-":
        assert found.startswith(name)
        assert len(found) == len(name) + 8
        assert found != changed_bindings.name_files({**changes, "a.b": "'x/z'"})
    else:
        assert found == name
