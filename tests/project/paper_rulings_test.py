"""Rulings 34 to 41 of docs/fidelity.md, about points that the paper states or leaves open.

A test is named by the number of its ruling. tests/gin/paper_rows_test.py holds the files of
gin/paper/ against `paper_rows.ROWS`; this file tests `ROWS` and the texts of headers.
"""

from __future__ import annotations

import inspect

import pytest
from model_files import read_header, read_stated_size
from paper_rows import C4, C4_TOKENS, CAPACITY, NO_REPEATS, ROWS, TABLE_1_STEPS

from mtf_switch.config import gin_config, gin_files
from mtf_switch.layers.capacity import ExpertCapacity

DENSE_MODELS = ("t5_base", "t5_large", "t5_large_relu", "t5_xxl", "mt5_base")
EVALUATES_WITH_2 = "it is upstream's 2.0 here"
# Table 1's hours to -1.50 and examples/s.
TABLE_1 = {
    "t5_large": (131.1, 470),
    "moe_base_2.00": (68.7, 840),
    "switch_base_2.00": (72.8, 860),
    "moe_base_1.25": (80.7, 790),
    "switch_base_1.25": (65.0, 910),
    "moe_base_1.00": (80.1, 860),
    "switch_base_1.00": (62.8, 1000),
    "switch_base_plus_1.00": (67.6, 780),
}


def flat_header(path: str) -> str:
    return " ".join(read_header(path).replace("\n# ", " ").split())


def is_dense(row) -> bool:
    return row.model in DENSE_MODELS


def test_ruling_34_dense_models_have_t5s_scale_and_say_so_and_their_rows_have_0_1():
    for name in DENSE_MODELS:
        header, _, bindings = read_header(f"models/{name}.gin").partition("\ninclude ")
        assert "init_scale" not in bindings
        assert "It keeps T5's initial scale, 1.0." in header
    dense_rows = [name for name, row in ROWS.items() if is_dense(row)]
    assert len(dense_rows) >= 10
    for name in dense_rows:
        assert read_header(f"paper/{name}.gin").endswith("\ninit_scale.s = 0.1\n")


def test_ruling_35_tables_4_to_9_pre_train_without_repeats_but_t5_xxl_and_the_rest_with():
    for name, row in ROWS.items():
        kind, number = name.split("/")[0].split("_")[:2]
        fine_tuned = kind == "table" and 4 <= int(number) <= 9 and name != "table_9/t5_xxl"
        if row.task in (C4, NO_REPEATS):
            assert row.task == (NO_REPEATS if fine_tuned else C4), name
        if fine_tuned:
            assert "C4 without repeats" in flat_header(f"paper/{name}.gin")
    assert "plain C4" in flat_header("paper/table_9/t5_xxl.gin")
    assert "these sections do not say which one" in flat_header("runs/c4.gin")


def test_ruling_36_table_1_goes_on_until_the_threshold():
    """Hours times examples/s, in batches of 2,048 sequences, are 93k to 121k steps."""
    batches = {
        name: hours * 3600 * speed / (C4_TOKENS / 512)
        for name, (hours, speed) in TABLE_1.items()
    }
    for name, steps in batches.items():
        row = ROWS[f"table_1/{name}"]
        assert steps < row.steps == TABLE_1_STEPS
        header = flat_header(f"paper/table_1/{name}.gin")
        assert f"-1.50 after {TABLE_1[name][0]} hours" in header
        assert f"{round(steps / 1000)}k batches" in header
    # "All our models required pre-training beyond 100k steps."
    assert [name for name, steps in batches.items() if steps < 100_000] == [
        "switch_base_plus_1.00"
    ]
    # T5-Base is at -1.556 after 500k steps.
    assert ROWS["table_1/t5_base"].steps == 100_000


def test_ruling_37_table_4_pre_trains_on_34_billion_tokens():
    assert ROWS["table_4/pretrain_t5_base"].steps == round(34e9 / C4_TOKENS)
    folder = gin_files.GIN_FOLDER / "paper" / "table_4"
    for file in sorted(folder.glob("*dropout*.gin")):
        model = "t5_base" if file.stem.startswith("t5") else "switch_base"
        assert f"table_4/pretrain_{model}.gin" in flat_header(f"paper/table_4/{file.name}")


def test_ruling_38_t5_large_has_a_file_for_each_size():
    relu, _ = read_stated_size("models/t5_large_relu.gin")
    gated, _ = read_stated_size("models/t5_large.gin")
    assert (relu, gated) == (737_668_096, 750_251_008)
    assert relu == pytest.approx(739e6, rel=0.005)
    assert "739M parameters and the 425e9 FLOPs" in flat_header("models/t5_large_relu.gin")
    assert "models/t5_large_relu.gin" in flat_header("models/t5_large.gin")


def test_ruling_39_each_sparse_row_says_with_which_capacity_it_evaluates():
    default = inspect.signature(ExpertCapacity).parameters["capacity_factor_eval"].default
    assert default == 2.0
    for name, row in ROWS.items():
        header = flat_header(f"paper/{name}.gin")
        if is_dense(row):
            assert EVALUATES_WITH_2 not in header
        elif CAPACITY[1] in row.bound:
            assert (
                "The paper has one capacity factor, which is used here in evaluation" in header
            )
        else:
            # paper_rows_test: none of these binds another factor.
            assert EVALUATES_WITH_2 in header, name


def test_ruling_40_glue_is_mixed_by_examples_and_without_wnli():
    import seqio
    import t5.data.mixtures  # noqa: F401

    mixture = seqio.MixtureRegistry.get("glue_v002_proportional")
    names = {task.name for task in mixture.tasks}
    assert "glue_cola_v002" in names
    assert not [name for name in names if "wnli" in name]
    cola = seqio.TaskRegistry.get("glue_cola_v002")
    assert mixture.get_rate(cola) == 8_551  # CoLA's training examples


def test_ruling_41_the_multi_task_run_has_t5s_rates_and_503_billion_tokens():
    import seqio
    import t5.data.mixtures  # noqa: F401

    assert ROWS["section_5_6/switch_xxl_multitask"].steps == round(503e9 / C4_TOKENS)
    gin_config.parse(["paper/section_5_6/switch_xxl_multitask.gin"], [])
    mixture = seqio.MixtureRegistry.get("all_mix")
    unsupervised = seqio.TaskRegistry.get("c4_v020_unsupervised")
    assert mixture.get_rate(unsupervised) == 133e6


@pytest.mark.slow
def test_ruling_41_the_multi_task_run_has_the_papers_spans():
    import numpy as np
    import seqio
    import tensorflow as tf
    from t5.data import preprocessors

    gin_config.parse(["paper/section_5_6/switch_xxl_multitask.gin"], [])
    feature = seqio.Feature(seqio.PassThroughVocabulary(32_100, eos_id=1))
    tokens = tf.data.Dataset.from_tensors({"targets": np.arange(3, 5000, dtype=np.int32)})
    examples = list(
        preprocessors.unsupervised(
            tokens,
            sequence_length={"inputs": 512, "targets": 114},
            output_features={"inputs": feature, "targets": feature},
        ).as_numpy_iterator()
    )
    # Both lack the end of sequence; the last segment is what is left of the document.
    lengths = {(len(e["inputs"]), len(e["targets"])) for e in examples[:-1]}
    assert lengths == {(511, 113)}
    kept = sum(np.isin(e["inputs"], np.arange(3, 5000)).sum() for e in examples)
    assert kept / 4997 == pytest.approx(0.85, abs=0.01)
