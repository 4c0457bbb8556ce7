"""The rows of the paper's tables and the points of its figures in gin/paper/.

tests/support/paper_rows.py states each row a second time, from the paper.
"""

from __future__ import annotations

import gin
import pytest
from model_files import (
    FILES,
    T5_VOCABULARY_SIZE,
    count_files,
    read_header,
    read_stated_size,
)
from paper_rows import CAPACITY, LENGTHS, MC4_LENGTHS, ROWS, SCALE, SOFT
from two_steps import train_two_steps

from mtf_switch.config import bound_settings, gin_config
from mtf_switch.model import switch_transformer

# finetune_test tests Table 4's rows of fine-tuning. The files of Section 5 are layouts.
FOUND = {
    str(path)[len("paper/") : -len(".gin")]
    for path in FILES
    if path.parts[0] == "paper"
    and path.parts[1] != "section_5"
    and "dropout" not in path.stem.replace("input_dropout", "")
}


def test_every_row_and_point_has_its_file_and_no_file_is_another():
    assert set(ROWS) == FOUND


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_the_paper_says(name):
    row, path = ROWS[name], f"paper/{name}.gin"
    header = " ".join(read_header(path).replace("\n# ", " ").split())
    assert not [text for text in row.header if text not in header]
    gin_config.parse([path], [])
    settings = bound_settings.read_settings()
    assert settings.task == row.task
    assert settings.sequence_length == (MC4_LENGTHS if row.task == "mc4" else LENGTHS)
    assert settings.batch_size * settings.sequence_length["inputs"] == row.tokens
    assert settings.train_steps == row.steps
    # Ruling 34: dense rows have the scale of the Switch rows.
    bound = {SCALE: 0.1, **row.bound}
    assert {key: gin.query_parameter(key) for key in bound} == bound
    # Ruling 39: only Table 1's rows evaluate with another factor than the default.
    if CAPACITY[1] not in bound:
        assert "ExpertCapacity.capacity_factor_eval" not in gin_config.to_text()


@pytest.mark.parametrize("experts", ["2", "4", "8", "16", "32", "64", "128", "256"])
def test_the_points_of_figure_4_have_their_experts(experts):
    gin_config.parse([f"paper/figure_4/switch_base_{experts}.gin"], [])
    assert gin.query_parameter("%num_experts") == int(experts)


@pytest.mark.parametrize("rows", [("table_1/moe_base_1.25", "table_1/switch_base_1.25")])
def test_mixture_of_experts_differs_from_switch_in_its_router_alone(rows):
    texts = []
    for row in rows:
        gin_config.parse([f"paper/{row}.gin"], [])
        lines = gin_config.to_text().splitlines()
        texts.append({line for line in lines if not line.startswith("import ")})
    assert "SwitchFFN.router = @TopKRouter()" in texts[0] - texts[1]
    assert not texts[1] - texts[0]
    # A top-2 router has its own exploration: the second expert.
    assert all("Router" in x or "Exploration" in x for x in texts[0] - texts[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_the_parameters_of_its_model(name):
    of_model, vocabulary = ROWS[name].model, T5_VOCABULARY_SIZE
    if isinstance(of_model, str):
        of_model, vocabulary = read_stated_size(f"models/{of_model}.gin")
    assert count_files([f"paper/{name}.gin"], vocabulary).cost.parameters == of_model


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if SOFT not in row.bound])
def test_a_row_trains_at_the_size_of_t5_tiny(tiny, tmp_path, name):
    files = (f"paper/{name}.gin", "sizes/tiny.gin")
    train_two_steps(tiny, tmp_path / "run", *files)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table_1/t5_base", "table_1/switch_base_1.25"])
def test_a_rows_batch_suits_the_32_cores_of_table_1(name):
    """Makes the checks of `switch_transformer.build`, with layout and microbatches of a TPU."""
    layout = "layouts/expert_32.gin" if "switch" in name else "layouts/data.gin"
    gin_config.parse([f"paper/{name}.gin", "runs/tpu.gin", layout], ["mesh.data = 32"])
    settings = bound_settings.read_settings()
    assert settings.layout.size == 32
    switch_transformer.build(settings, type("Vocabulary", (), {"vocab_size": 32100}))
