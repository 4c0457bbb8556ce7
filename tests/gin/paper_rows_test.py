"""The rows of the paper's tables and the points of its figures in gin/paper/.

What a row is stands here once more, from the paper: its model, what it changes, and the number
that its file's header gives.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gin
import pytest
from model_files import FILES, count_files, read_header, read_stated_size
from two_steps import train_two_steps

from mtf_switch.config import gin_config, run_settings
from mtf_switch.model import switch_transformer

C4_TOKENS = 2**20
CAPACITY = ("ExpertCapacity.capacity_factor_train", "ExpertCapacity.capacity_factor_eval")
DTYPE = "utils.get_variable_dtype.activation_dtype"
ROUTER_DTYPE = "SwitchRouter.router_dtype"
POLICY = "Exploration.policy"
SCALE = "init_scale.s"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
      model: the file of gin/models/ that has its parameters, or their number.
      header: what the header says of it, printed numbers first.
      bound: gin bindings of its own.
      steps: at which it ends, as far as the paper says.
      tokens: of input in a batch.
    """

    model: str | int
    header: tuple[str, ...]
    bound: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 550_000
    tokens: int = C4_TOKENS


def _table_1(model_, number, speed, factor=None):
    bound = {} if factor is None else dict.fromkeys(CAPACITY, factor)
    return Row(model_, (number, f"{speed} examples/s", "100k steps"), bound, 100_000)


def _table_9(model_, at_250k, at_500k):
    return Row(model_, (at_250k, at_500k), {}, 500_000)


def _table_10(parameters, precision, *header):
    return Row(parameters, (*header, "2^19 tokens"), {DTYPE: precision}, 100_000, 2**19)


def _table_11(policy, number):
    return Row("switch_base_32", (number,), {POLICY: policy})


ROWS = {
    "table_1/t5_base": _table_1("t5_base", "-1.731", 1600),
    "table_1/t5_large": _table_1("t5_large", "-1.550", 470),
    "table_1/moe_base_2.00": _table_1("switch_base", "-1.547", 840, 2.0),
    "table_1/switch_base_2.00": _table_1("switch_base", "-1.554", 860, 2.0),
    "table_1/moe_base_1.25": _table_1("switch_base", "-1.559", 790, 1.25),
    "table_1/switch_base_1.25": _table_1("switch_base", "-1.553", 910, 1.25),
    "table_1/moe_base_1.00": _table_1("switch_base", "-1.572", 860, 1.0),
    "table_1/switch_base_1.00": _table_1("switch_base", "-1.561", 1000, 1.0),
    "table_1/switch_base_plus_1.00": _table_1("switch_base_plus", "-1.534", 780, 1.0),
    "table_2/float32": Row("switch_base_32", ("-1.718", "1160"), {DTYPE: "float32"}),
    "table_2/bfloat16": Row(
        "switch_base_32",
        ("-3.780", "1390", "diverged"),
        {DTYPE: "bfloat16", ROUTER_DTYPE: "bfloat16"},
    ),
    "table_2/selective": Row("switch_base_32", ("-1.716", "1390"), {DTYPE: "bfloat16"}),
    "table_3/scale_0.1": Row("switch_base_32", ("-2.72", "0.01"), {SCALE: 0.1}, 3500),
    "table_3/scale_1.0": Row("switch_base_32", ("-3.60", "0.68"), {SCALE: 1.0}, 3500),
    "table_9/t5_base": _table_9("t5_base", "-1.599", "-1.556"),
    "table_9/t5_large": _table_9("t5_large", "-1.402", "-1.350"),
    "table_9/t5_xxl": _table_9("t5_xxl", "-1.147", "-1.095"),
    "table_9/switch_base": _table_9("switch_base", "-1.370", "-1.306"),
    "table_9/switch_large": _table_9("switch_large", "-1.248", "-1.177"),
    "table_9/switch_xxl": _table_9("switch_xxl", "-1.086", "-1.008"),
    "table_9/switch_c": _table_9("switch_c", "-1.096", "-1.043"),
    "table_10/experts_ff_float32": _table_10("switch_base_32", "float32", "-1.548", "-1.614"),
    "table_10/experts_attention_float32": _table_10(
        655_244_544, "float32", "-1.524", "-1.606", "1330 examples/s"
    ),
    "table_10/experts_attention_bfloat16": _table_10(655_244_544, "bfloat16", "diverges"),
    "table_10/experts_ff_and_attention_float32": _table_10(
        2_410_855_680, "float32", "-1.513", "-1.607", "1240 examples/s"
    ),
    "table_10/experts_ff_and_attention_bfloat16": _table_10(
        2_410_855_680, "bfloat16", "diverges"
    ),
    "table_11/argmax": _table_11("argmax", "-1.471"),
    "table_11/sample_softmax": _table_11("sample_softmax", "-1.570"),
    "table_11/input_dropout": _table_11("input_dropout", "-1.480"),
    "table_11/input_jitter": _table_11("input_jitter", "-1.468"),
    "figure_4/t5_base": Row("t5_base", ("Figures 1, 4, 5, 6 and 12",)),
    "figure_4/switch_base_2": Row("switch_base_2", ("Figures 1, 4 and 12",)),
    "figure_4/switch_base_4": Row("switch_base_4", ("Figures 1, 4 and 12",)),
    "figure_4/switch_base_8": Row("switch_base_8", ("Figures 1, 4 and 12",)),
    "figure_4/switch_base_16": Row("switch_base_16", ("Figures 1 and 4", "-1.505")),
    "figure_4/switch_base_32": Row("switch_base_32", ("Figures 1 and 4", "-1.474")),
    "figure_4/switch_base_64": Row("switch_base_64", ("Figures 1, 4, 5 and 6", "-1.444")),
    "figure_4/switch_base_128": Row("switch_base", ("Figures 1 and 4", "-1.432")),
    "figure_4/switch_base_256": Row("switch_base_256", ("Figures 1 and 4", "-1.427")),
}
# Table 4's rows are of fine-tuning: finetune_test has them.
FOUND = {
    str(path)[len("paper/") : -len(".gin")]
    for path in FILES
    if path.parts[0] == "paper" and path.parts[1] not in ("table_4", "section_5")
}


def test_every_row_and_point_has_its_file_and_no_file_is_another():
    assert set(ROWS) == FOUND


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_the_paper_says(name):
    row, path = ROWS[name], f"paper/{name}.gin"
    header = " ".join(read_header(path).replace("\n# ", " ").split())
    assert not [text for text in row.header if text not in header]
    gin_config.parse([path], [])
    settings = run_settings.from_gin()
    assert settings.task == "c4_v220_span_corruption"
    assert settings.sequence_length == {"inputs": 512, "targets": 114}
    assert settings.batch_size * 512 == row.tokens
    assert settings.train_steps == row.steps
    assert {key: gin.query_parameter(key) for key in row.bound} == row.bound


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
    parameters = count_files([f"paper/{name}.gin"]).cost.parameters
    of_model = ROWS[name].model
    if isinstance(of_model, str):
        of_model, _ = read_stated_size(f"models/{of_model}.gin")
    assert parameters == of_model


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_at_the_size_of_t5_tiny(tiny, tmp_path, name):
    files = (f"paper/{name}.gin", "sizes/tiny.gin")
    train_two_steps(tiny, tmp_path / "run", *files)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table_1/t5_base", "table_1/switch_base_1.25"])
def test_a_rows_batch_suits_the_32_cores_of_table_1(name):
    """What `switch_transformer.build` checks, with the layout and the microbatches of a TPU."""
    layout = "layouts/expert_32.gin" if "switch" in name else "layouts/data.gin"
    gin_config.parse([f"paper/{name}.gin", "runs/tpu.gin", layout], ["mesh.data = 32"])
    settings = run_settings.from_gin()
    assert settings.layout.size == 32
    switch_transformer.build(settings, type("Vocabulary", (), {"vocab_size": 32100}))
