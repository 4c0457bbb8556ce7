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
INIT, SOFT = "distillation.init", "distillation.soft"
KEPT = "utils.run.keep_checkpoint_max"
C4, NO_REPEATS = "c4_v220_span_corruption", "c4_v220_span_corruption_no_repeats"
# Tokens of inputs and targets; mT5's for mC4.
LENGTHS = {"inputs": 512, "targets": 114}
MC4_LENGTHS = {"inputs": 1024, "targets": 229}
# Past the step at which the last of these models reaches -1.50: see ruling 36.
TABLE_1_STEPS = 130_000


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table, or a point of a figure.

    Attributes:
      model: The file of gin/models/ that has its parameters, or their number.
      header: Texts that the header must contain, printed numbers first.
      bound: Its own gin bindings.
      steps: The number of training steps, as far as the paper states it.
      tokens: The number of input tokens in a batch.
      task: The training task.
    """

    model: str | int
    header: tuple[str, ...]
    bound: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 550_000
    tokens: int = C4_TOKENS
    task: str = C4


def _table_1(model_, number, speed, hours=None, factor=None):
    bound = {} if factor is None else dict.fromkeys(CAPACITY, factor)
    if hours is None:
        header = (number, f"{speed} examples/s", "100k steps", "does not reach -1.50")
        return Row(model_, header, bound, 100_000)
    header = (number, f"{speed} examples/s", "100k steps", f"-1.50 after {hours} hours")
    return Row(model_, header, {**bound, KEPT: None}, TABLE_1_STEPS)


def _table_9(model_, at_250k, at_500k, task=NO_REPEATS):
    return Row(model_, (at_250k, at_500k), {}, 500_000, task=task)


def _pretraining(model_, *header, steps=550_000, task=NO_REPEATS):
    return Row(model_, header, {}, steps, task=task)


def _student(init, soft, *header, **others):
    return Row("t5_base", header, {INIT: init, SOFT: soft}, **{"task": NO_REPEATS, **others})


def _table_10(parameters, precision, *header):
    return Row(parameters, (*header, "2^19 tokens"), {DTYPE: precision}, 100_000, 2**19)


def _table_11(policy, number):
    return Row("switch_base_32", (number,), {POLICY: policy})


ROWS = {
    "table_1/t5_base": _table_1("t5_base", "-1.731", 1600),
    "table_1/t5_large": _table_1("t5_large", "-1.550", 470, 131.1),
    "table_1/moe_base_2.00": _table_1("switch_base", "-1.547", 840, 68.7, 2.0),
    "table_1/switch_base_2.00": _table_1("switch_base", "-1.554", 860, 72.8, 2.0),
    "table_1/moe_base_1.25": _table_1("switch_base", "-1.559", 790, 80.7, 1.25),
    "table_1/switch_base_1.25": _table_1("switch_base", "-1.553", 910, 65.0, 1.25),
    "table_1/moe_base_1.00": _table_1("switch_base", "-1.572", 860, 80.1, 1.0),
    "table_1/switch_base_1.00": _table_1("switch_base", "-1.561", 1000, 62.8, 1.0),
    "table_1/switch_base_plus_1.00": _table_1("switch_base_plus", "-1.534", 780, 67.6, 1.0),
    "table_2/float32": Row("switch_base_32", ("-1.718", "1160"), {DTYPE: "float32"}),
    "table_2/bfloat16": Row(
        "switch_base_32",
        ("-3.780", "1390", "diverged"),
        {DTYPE: "bfloat16", ROUTER_DTYPE: "bfloat16"},
    ),
    "table_2/selective": Row("switch_base_32", ("-1.716", "1390"), {DTYPE: "bfloat16"}),
    "table_3/scale_0.1": Row("switch_base_32", ("-2.72", "0.01"), {SCALE: 0.1}, 3500),
    "table_3/scale_1.0": Row("switch_base_32", ("-3.60", "0.68"), {SCALE: 1.0}, 3500),
    "table_4/pretrain_t5_base": _pretraining("t5_base", "34B tokens", steps=32_425),
    "table_4/pretrain_switch_base": _pretraining("switch_base", "34B tokens", steps=32_425),
    "table_5/t5_base": _pretraining("t5_base", "GLUE 84.3", "SuperGLUE 75.1"),
    "table_5/switch_base": _pretraining("switch_base", "GLUE 86.7", "SuperGLUE 79.5"),
    "table_5/t5_large": _pretraining("t5_large", "GLUE 87.8", "SuperGLUE 82.7"),
    "table_5/switch_large": _pretraining("switch_large", "GLUE 88.5", "SuperGLUE 84.7"),
    "table_6/distillation": _student("none", 1.0, "-1.631", "3%"),
    "table_6/distillation_init": _student("non_expert", 1.0, "-1.598", "20%"),
    "table_6/distillation_init_mix": _student("non_expert", 0.25, "-1.580", "29%"),
    "table_6/init": _student("non_expert", 0.0, "-1.639"),
    "table_7/student": _student(
        *("non_expert", 0.25, "-1.587", "-1.585", "-1.579", "-1.582", "-1.578"),
        *("37%", "32%", "30%", "27%", "28%"),
    ),
    "table_8/student": _student(
        *("non_expert", 0.25, "76.6", "81.3", "74.6", "30%"),
        steps=16_000,
        task="super_glue_v102_proportional",
    ),
    "table_7/t5_base": _pretraining("t5_base", "-1.636"),
    "table_7/switch_base_16": _pretraining("switch_base_16", "-1.505", "-1.587"),
    "table_7/switch_base_32": _pretraining("switch_base_32", "-1.474", "-1.585"),
    "table_7/switch_base_64": _pretraining("switch_base_64", "-1.444", "-1.579"),
    "table_7/switch_base_128": _pretraining("switch_base", "-1.432", "-1.582"),
    "table_7/switch_base_256": _pretraining("switch_base_256", "-1.427", "-1.578"),
    "table_9/t5_base": _table_9("t5_base", "-1.599", "-1.556"),
    "table_9/t5_large": _table_9("t5_large", "-1.402", "-1.350"),
    "table_9/t5_xxl": _table_9("t5_xxl", "-1.147", "-1.095", C4),
    "table_9/switch_base": _table_9("switch_base", "-1.370", "-1.306"),
    "table_9/switch_large": _table_9("switch_large", "-1.248", "-1.177"),
    "table_9/switch_xxl": _table_9("switch_xxl", "-1.086", "-1.008"),
    "table_9/switch_c": _table_9("switch_c", "-1.096", "-1.043"),
    "table_10/experts_ff_float32": _table_10(
        "switch_base_32", "float32", "-1.548", "-1.614", "1480 examples/s"
    ),
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
    "figure_7/mt5_base": _pretraining(
        "mt5_base", "Figures 7 and 8", steps=1_000_000, task="mc4"
    ),
    "figure_7/mswitch_base": _pretraining(
        "mswitch_base", "Figures 7 and 8", steps=1_000_000, task="mc4"
    ),
    # 503B tokens (Section 5.6).
    "section_5_6/switch_xxl_multitask": _pretraining(
        "switch_xxl",
        *("503B tokens", "87.5", "89.7", "65.7", "34.4", "41.0", "47.5"),
        steps=479_698,
        task="all_mix",
    ),
}
