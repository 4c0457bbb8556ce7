"""Averages over tasks, as in T5, and metrics without a value."""

from __future__ import annotations

import math

from mtf_switch.downstream import task_metrics


def test_glues_average_takes_mnlis_two_sets_as_one_task() -> None:
    """By hand, as in T5: eight tasks, of which three have two metrics."""
    glue = {
        "glue_cola_v002": {"matthews_corrcoef": 8.0},
        "glue_sst2_v002": {"accuracy": 16.0},
        "glue_mrpc_v002": {"f1": 20.0, "accuracy": 28.0},  # 24
        "glue_stsb_v002": {"pearson_corrcoef": 30.0, "spearman_corrcoef": 34.0},  # 32
        "glue_qqp_v002": {"f1": 40.0, "accuracy": 40.0},  # 40
        "glue_mnli_matched_v002": {"accuracy": 50.0},  # 48 with the other
        "glue_mnli_mismatched_v002": {"accuracy": 46.0},
        "glue_qnli_v002": {"accuracy": 56.0},
        "glue_rte_v002": {"accuracy": 64.0},
    }
    # (8 + 16 + 24 + 32 + 40 + 48 + 56 + 64) / 8
    assert task_metrics.average_tasks(glue) == {"glue_average": 36.0}
    del glue["glue_rte_v002"]
    assert list(task_metrics.average_tasks(glue)) == ["average"]


def test_one_task_has_no_average() -> None:
    assert task_metrics.average_tasks({"a": {"accuracy": 1.0}}) == {}


def test_a_correlation_with_a_constant_counts_as_0() -> None:
    from t5.evaluation import metrics

    value = metrics.pearson_corrcoef([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])["pearson_corrcoef"]
    assert math.isnan(value)
    found = task_metrics.compute_metric(
        metrics.pearson_corrcoef, [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]
    )
    assert found == {"pearson_corrcoef": 0.0}
