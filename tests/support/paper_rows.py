"""The rows of the paper's tables and the points of its figures, from the paper.

For each file in gin/paper/: its model, what it changes, and the numbers that its header gives.
"""

from __future__ import annotations

import dataclasses
from typing import Any

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
