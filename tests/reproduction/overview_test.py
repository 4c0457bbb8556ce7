"""The first page of a folder of results: verdicts, links, and what was not run."""

from __future__ import annotations

import dataclasses
import re
import sys

from made_results import make_seeds

from mtf_switch.reproduction import exhibit_report, overview
from mtf_switch.reproduction.catalog import EXHIBITS
from mtf_switch.reproduction.page_context import Context

TABLE = EXHIBITS["table_11"]
CONTEXT = Context("tiny", 3, "abc1234", "b" * 64, ("--seeds=3",))
# Input dropout was not run.
RESULTS = {
    "argmax": make_seeds(-2.50, -2.52, -2.54, training="switch_8_argmax"),
    "sample_softmax": make_seeds(-2.60, -2.62, -2.64, training="switch_8_sample_softmax"),
    "input_jitter": make_seeds(-2.49, -2.52, -2.53),
}


def make_page(results, pages=(), context=CONTEXT, guide=None) -> str:
    report = overview.make_report({"table_11": results}, context, [TABLE], pages, guide)
    return report.documents["README.md"]


def test_the_first_page_has_every_claim_and_what_was_not_run() -> None:
    exhibits = [TABLE, EXHIBITS["table_3"]]
    results = {"table_11": RESULTS, "table_3": {}}
    report = overview.make_report(results, CONTEXT, exhibits, {"table_11.md"})
    page = report.documents["README.md"]
    assert page.count("[Table 11](table_11.md)") == 4
    assert page.count("**not run**") == 3
    assert "| Table 3 |" in page
    assert "table_3.md" not in page
    _, missing = page.split("## Not run\n\n")
    assert missing.splitlines() == [
        "- Table 11 (in part: 1 of 4 claims): `run_switch.py reproduce table_11 --seeds=3`",
        "- Table 3: `run_switch.py reproduce table_3 --seeds=3`",
    ]
    assert report.text == (
        "6 claims of the paper: 2 same direction, 1 not resolved at this scale, 0 opposite "
        "direction, 3 not run."
    )


def test_a_claim_of_two_figures_counts_once() -> None:
    figures = [EXHIBITS["figure_1"], EXHIBITS["figure_4"]]
    report = overview.make_report({e.name: {} for e in figures}, CONTEXT, figures, ())
    # Two of Figure 1, which Figure 4 has as well, and five more.
    assert report.text.startswith("7 claims of the paper: ")
    assert report.documents["README.md"].count("**not run**") == 9


def test_seeds_that_were_not_run_are_missing() -> None:
    page = make_page({**RESULTS, "input_dropout": make_seeds(-2.50, -2.51)})
    _, missing = page.split("## Not run\n\n")
    assert missing == (
        "- Table 11 (in part: 1 of 12 results of a row and seed): "
        "`run_switch.py reproduce table_11 --seeds=3`\n"
    )


def test_what_was_judged_completely_is_not_missing() -> None:
    page = make_page({**RESULTS, "input_dropout": make_seeds(-2.50, -2.51, -2.52)})
    assert "## Not run" not in page


def test_the_first_page_links_only_what_exists() -> None:
    """An exhibit can have results, which it shares with another one, and no page yet."""
    page = make_page(RESULTS, {"figure_4.md"})
    assert "| Table 11 |" in page
    assert "](" not in page
    assert "docs/reproduction.md defines every number" in page
    page = make_page(RESULTS, {"table_11.md"}, guide="../reproduction.md")
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert links == ["../reproduction.md", *["table_11.md"] * 4]


def test_a_command_is_quoted_for_a_shell_and_names_the_program(monkeypatch) -> None:
    context = dataclasses.replace(CONTEXT, flags=("--results=my all results",))
    command = "reproduce table_11 '--results=my all results'"
    page = exhibit_report.make_report(TABLE, RESULTS, context).documents["table_11.md"]
    assert f"\nrun_switch.py {command}\n" in page
    monkeypatch.setattr(sys, "argv", ["bin/mtf_switch"])
    assert f"- Table 11: `mtf_switch {command}`" in make_page({}, context=context)


def test_comparisons_with_a_control_are_no_claims_of_the_paper() -> None:
    results = {
        name: make_seeds(quality, quality, quality)
        for name, quality in {"distillation_init_mix": -2.4, "control_mix": -2.5}.items()
    }
    table = EXHIBITS["table_6"]
    report = overview.make_report({"table_6": results}, CONTEXT, [table], ())
    assert report.text == (
        "6 claims of the paper: 0 same direction, 0 not resolved at this scale, 0 opposite "
        "direction, 6 not run. 2 comparisons with a control: 1 same direction, 0 not resolved at "
        "this scale, 0 opposite direction, 1 not run."
    )
