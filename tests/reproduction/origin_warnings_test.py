"""What a page says about results of another commit, lock or data."""

from __future__ import annotations

import dataclasses

from made_results import CONTEXT, make_seeds, of_commit
from made_results import TABLE_11 as RESULTS

from mtf_switch.reproduction import exhibit_report, origin_warnings
from mtf_switch.reproduction.catalog import EXHIBITS

TABLE = EXHIBITS["table_11"]


def test_results_of_another_commit_or_lock_are_named() -> None:
    assert "Mixed" not in origin_warnings.format_warnings(TABLE, RESULTS, CONTEXT)
    mixed = {**RESULTS, "argmax": dict(RESULTS["argmax"])}
    mixed["argmax"][1] = of_commit(mixed["argmax"][1], "0ld0ld0")
    other = mixed["argmax"][2]
    mixed["argmax"][2] = dataclasses.replace(
        other, origin=dataclasses.replace(other.origin, lock="")
    )
    report = exhibit_report.make_report(TABLE, mixed, CONTEXT)
    for text in (report.text, report.documents["table_11.md"]):
        assert (
            "**Mixed:** 1 of 9 results from commit 0ld0ld0, not abc1234: switch_8_argmax-1."
        ) in text
        assert "another requirements.txt: switch_8_argmax-2." in text


def test_results_of_changed_files_are_named() -> None:
    results = {
        name: {
            seed: of_commit(result, "abc1234 and changes") for seed, result in of_row.items()
        }
        for name, of_row in RESULTS.items()
    }
    context = dataclasses.replace(CONTEXT, commit="abc1234 and changes")
    warning = origin_warnings.format_warnings(TABLE, results, context)
    assert warning == "**Origin:** all results come from changed files (abc1234 and changes)."


def test_results_that_have_one_other_origin_are_not_called_mixed() -> None:
    results = {
        name: {seed: of_commit(result, "0ld0ld0") for seed, result in of_row.items()}
        for name, of_row in RESULTS.items()
    }
    warning = origin_warnings.format_warnings(TABLE, results, CONTEXT)
    assert warning == "**Origin:** all results come from commit 0ld0ld0, not abc1234."


def with_data(of_row, data: str):
    return {
        seed: dataclasses.replace(r, origin=dataclasses.replace(r.origin, data=data))
        for seed, r in of_row.items()
    }


def test_results_of_other_data_than_most_are_named() -> None:
    mixed = {**RESULTS, "argmax": with_data(RESULTS["argmax"], "e" * 64)}
    report = exhibit_report.make_report(TABLE, mixed, CONTEXT)
    assert (
        "**Mixed data:** 3 results have the hash eeeeeeee of text and vocabulary, and not "
        "dddddddd: switch_8_argmax-0; switch_8_argmax-1; switch_8_argmax-2."
    ) in report.documents["table_11.md"]


def test_the_data_of_a_pruned_model_is_not_compared() -> None:
    table = EXHIBITS["table_6"]
    results = {
        "t5": make_seeds(-2.0, -2.0),
        "pruned_2": with_data(make_seeds(-1.5, -1.7), "e" * 64),
    }
    assert origin_warnings.format_warnings(table, results, CONTEXT) == ""
