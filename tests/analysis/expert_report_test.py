"""The report of `experts`: made from a hand-made trace, and by the command from a trace."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import re

import numpy as np
import pytest
from made_traces import DOMAINS, EXPERTS, LENGTH, make_tokens, write_trace

from mtf_switch.analysis import (
    expert_report,
    importance,
    layer_tokens,
    matching,
    measures,
    report_page,
    token_browser,
    trace_analysis,
)
from mtf_switch.analysis.layer_tokens import LayerTokens
from mtf_switch.analysis.plots import order_by_similarity, shorten
from mtf_switch.analysis.routing_trace import RoutingTrace
from mtf_switch.cli import experts
from mtf_switch.errors import UserError

LAYERS = ("encoder/block_000/layer_001", "encoder/block_001/layer_001")
EVIL = "</script><script>alert(1)</script>&|`*"


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> RoutingTrace:
    """Layer 0 routes by id, layer 1 by domain; a piece has the text of an attack."""
    tokens = {layer: make_tokens(rule) for layer, rule in zip(LAYERS, ("id", "domain"))}
    folder = tmp_path_factory.mktemp("made") / "trace"
    return write_trace(folder, {10: tokens, 20: tokens}, pieces={4: EVIL})


@pytest.fixture(scope="module")
def analysis(trace: RoutingTrace) -> trace_analysis.Analysis:
    rows = importance.summarize(
        {(LAYERS[0], 0): np.array([[2.0, 1.0, 5, 20]] * 20 + [[4.0, 1.0, 5, 20]] * 20)},
        np.full(40, 10),
    )
    matchings = matching.compare_traces(trace, trace, draws=19)
    return trace_analysis.analyse(trace, rows, matchings, draws=39)


def test_the_tokens_of_a_layer_come_back_from_the_files(trace):
    expected = make_tokens("id")
    found = layer_tokens.read(trace, 10, LAYERS[0])
    for field in dataclasses.fields(LayerTokens):
        if field.name in ("kind", "before", "last"):
            continue
        np.testing.assert_allclose(
            getattr(found, field.name), getattr(expected, field.name), rtol=1e-6
        )
    np.testing.assert_array_equal(found.last, found.expert)
    assert found.before is None
    assert layer_tokens.read(trace, 20, LAYERS[0]).last is None
    np.testing.assert_array_equal(
        layer_tokens.read(trace, 20, LAYERS[1]).before, expected.expert
    )


def test_the_analysis_finds_what_decides_the_expert(analysis):
    found = {(row.layer, row.measure): row for row in analysis.rows if row.step == 20}
    by_id, by_domain = LAYERS
    assert found[by_id, "input vocabulary"].tested.value == 1
    assert found[by_domain, "domain, given id (nats)"].tested.excess > 0.5
    for row in analysis.rows:
        assert row.tested.p_value <= row.q_value <= 1
    early = {(row.layer, row.measure): row for row in analysis.rows if row.step == 10}
    assert early[by_id, "saturation"].tested.value == 1
    # Chance agrees as often as two tokens have the same expert.
    load = measures.compute_load(make_tokens("id"))
    assert early[by_id, "saturation"].tested.null_mean == pytest.approx(
        (load**2).sum(), abs=0.02
    )


def test_every_form_of_the_report_has_the_same_numbers(analysis, trace):
    report = expert_report.make_report(analysis, token_browser.make_page(trace), "run")
    assert set(report.file_names) <= set(expert_report.FILES)
    assert set(experts._FILES) == set(expert_report.FILES)
    data = json.loads(report.to_json())
    rows = list(csv.DictReader(io.StringIO(report.documents["experts.csv"])))
    assert len(rows) == len(data["measures"]) == len(analysis.rows)
    for row, other in zip(rows, data["measures"]):
        assert float(row["value"]) == pytest.approx(other["value"], rel=1e-5)
        assert row["measure"] == other["measure"]
    page = report.documents["experts.md"]
    for name in report.plots:
        assert f"]({name})" in page
    assert "steps.png" in report.plots
    earlier = {row["measure"] for row in rows if row["step"] == "10"}
    assert "saturation" in earlier
    assert earlier <= set(trace_analysis.OF_EARLIER_STEPS)
    assert f"Over the checkpoints: {', '.join(trace_analysis.OF_EARLIER_STEPS)}. The" in page
    assert "domains.png" in report.plots
    assert "drops.png" in report.plots
    assert "| enc 0.1 | input vocabulary | 1.0000 [1.0000, 1.0000] |" in page
    assert "enc 0.1      input vocabulary               1.0000" in report.text


def test_the_report_names_the_bindings_that_were_changed(analysis):
    changed = {"changed_bindings": {"ExpertCapacity.capacity_factor_eval": "1.0"}}
    info = dataclasses.replace(analysis.info, request={**analysis.info.request, **changed})
    other = dataclasses.replace(analysis, info=info)
    binding = "ExpertCapacity.capacity_factor_eval = 1.0\n"
    assert f"changed             {binding}" in report_page.format_summary(other)
    assert f"\n\nChanged bindings: {binding}\n" in report_page.format_page(other, [], "run")
    assert "hanged" not in report_page.format_page(analysis, [], "run")


def test_without_measures_as_with_one_expert_their_plots_are_left_out(analysis):
    found = expert_report._choose_plots(dataclasses.replace(analysis, rows=[]))
    assert "load.png" in found
    assert not {"measures.png", "steps.png"} & set(found)


def test_no_text_of_a_token_is_markup(analysis, trace):
    page = token_browser.make_page(trace)
    (embedded,) = re.findall(r'id="data">(.*?)</script>', page, re.S)
    assert "alert" in embedded
    assert not set("<>&") & set(embedded)
    assert EVIL in json.loads(embedded)["pieces"].values()
    assert page.count("<script") == 2
    markdown = report_page.format_page(analysis, [], "run")
    assert "alert" in markdown
    assert "<script" not in markdown
    code = report_page.escape_piece(EVIL)
    assert not set("|`*") & set(code)


def test_the_browser_shows_what_the_layer_did(trace):
    page = token_browser.make_page(trace)
    content = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.S)[0])
    tokens = make_tokens("id")
    first = content["layers"][0]
    assert first["name"] == "enc 0.1"
    assert first["experts"] == EXPERTS
    assert list(itertools.chain(*first["expert"])) == tokens.expert.tolist()
    assert list(itertools.chain(*first["dropped"])) == tokens.dropped.astype(int).tolist()
    examples = content["segments"]["encoder"]
    assert [i for example in examples for i in example["ids"]] == tokens.token.tolist()


def test_importance_by_hand(analysis):
    (row,) = analysis.importance
    # 20 examples lose 2 nats and 20 lose 4, of 10 target tokens each.
    assert row.loss == pytest.approx(0.3)
    assert row.random == pytest.approx(0.1)
    assert row.load == 0.25
    # Standard error: the standard deviation of 0.2 and 0.4 over sqrt(40).
    error = np.std([0.2] * 20 + [0.4] * 20, ddof=1) / np.sqrt(40)
    assert row.high - row.loss == pytest.approx(2.0227 * error, rel=1e-4)  # t of 39 degrees
    assert row.p_value < 1e-10
    # An expert that is as important as random tokens is not special, whatever the loss.
    same = np.array([[2.0, 2.0, 5, 20]] * 20 + [[4.0, 4.0, 5, 20]] * 20)
    (row,) = importance.summarize({(LAYERS[0], 0): same}, np.full(40, 10))
    assert row.loss == pytest.approx(0.3)
    assert row.low > 0
    assert row.p_value == 1


def test_importance_stays_beside_its_trace_and_is_of_no_other(analysis, tmp_path):
    one = write_trace(tmp_path / "trace", {20: {LAYERS[0]: make_tokens("id")}})
    assert importance.read(one) is None
    measured = importance.Measured(700, analysis.importance)
    importance.write(one, measured)
    assert importance.read(one) == measured
    for change in ({"weights": {20: "1"}}, {"digest": "1"}, {"request": {"task": "other"}}):
        info = dataclasses.replace(one.info, **change)
        assert importance.read(RoutingTrace(one.folder, info)) is None
    (tmp_path / "trace" / importance.FILE).write_text("{")
    with pytest.raises(UserError, match=r"importance\.json cannot be read"):
        importance.read(one)


def test_the_tables_of_a_layer_against_loops(analysis):
    before, tokens = make_tokens("id"), make_tokens("domain")
    found = analysis.layers[LAYERS[1]]
    for one in range(EXPERTS):
        followed = [b for a, b in zip(before.expert, tokens.expert) if a == one]
        for other in range(EXPERTS):
            share = followed.count(other) / len(followed)
            assert found.coactivation[one, other] == pytest.approx(share)
    assert analysis.layers[LAYERS[0]].coactivation is None
    for position in range(LENGTH):
        lost = tokens.dropped[tokens.position == position]
        assert found.dropped_by_position[position] == pytest.approx(lost.mean())
    assert found.dropped == pytest.approx(tokens.dropped.mean())
    assert found.gate == pytest.approx(np.quantile(tokens.gate, [0.05, 0.5, 0.95]))
    assert found.load == pytest.approx(
        np.bincount(tokens.expert, minlength=EXPERTS) / len(tokens)
    )
    for domain in range(DOMAINS):
        here = tokens.expert[tokens.domain == domain].tolist()
        assert found.domains[domain].tolist() == [here.count(e) for e in range(EXPERTS)]
    assert found.kinds.sum() == len(tokens)


def test_models_are_equal_up_to_the_numbers_of_their_experts(analysis, trace, tmp_path):
    same = analysis.matchings[0]
    assert same.agreement.value == 1
    assert same.partner == [(e, e) for e in range(EXPERTS)]
    shifted = {
        layer: make_tokens(rule, expert=(make_tokens(rule).expert + 1) % EXPERTS)
        for layer, rule in zip(LAYERS, ("id", "domain"))
    }
    other = write_trace(tmp_path / "other", {20: shifted})
    found = matching.compare_traces(trace, other, draws=19)
    assert found[0].partner == [(e, (e + 1) % EXPERTS) for e in range(EXPERTS)]
    assert found[0].agreement.value == 1
    assert found[0].agreement.null_mean < 0.5
    # By hand: 5 + 4 of 12 tokens stay with the best matching.
    assert matching.match(np.array([[1, 5], [4, 2]])) == [(0, 1), (1, 0)]
    counted = matching.measure_agreement(
        np.repeat([0, 0, 1, 1], [1, 5, 4, 2]), np.repeat([0, 1, 0, 1], [1, 5, 4, 2]), 2, 2
    )
    assert counted == 9 / 12


def test_traces_that_cannot_be_compared(trace, tmp_path):
    one = {LAYERS[0]: make_tokens("id")}
    with pytest.raises(UserError, match="have different Switch layers"):
        matching.compare_traces(trace, write_trace(tmp_path / "one", {20: one}))
    two = {layer: make_tokens("id", seed=1) for layer in LAYERS}
    with pytest.raises(UserError, match="are of different tokens"):
        matching.compare_traces(trace, write_trace(tmp_path / "two", {20: two}))


@pytest.mark.parametrize(
    ("asked", "made_with"),
    [
        ({"task": "other", "tokens": 1200}, "--task=made."),
        ({"split": "train"}, "--split=validation."),
        # The trace has 1,200 tokens, and ended when it had read 1,000. A batch has at most 80.
        ({"tokens": 1120}, "--tokens=1000."),
        ({"tokens": 1201}, "--tokens=1000."),
        ({"tokens": 1121}, None),
        ({"tokens": 1200}, None),
    ],
)
def test_a_comparison_of_other_tokens_is_refused_before_the_model_runs(trace, asked, made_with):
    request = {"task": "made", "split": "validation", "tokens": 1150, **asked}
    if made_with is None:
        matching.check_request(request, trace)
        return
    with pytest.raises(UserError, match=f"it was made with {made_with} Pass the same here"):
        matching.check_request(request, trace)


def test_too_few_tokens_for_a_null_model(tmp_path):
    few = {LAYERS[0]: make_tokens("id").select(np.arange(1200) % 20 == 0)}
    with pytest.raises(UserError, match="has 60 tokens in 60 examples, but with 4 experts"):
        trace_analysis.analyse(write_trace(tmp_path / "few", {20: few}))


def test_similar_rows_become_neighbours():
    table = np.array([[0, 9.0], [9, 0], [1, 9], [9, 1]])
    order = order_by_similarity(table).tolist()
    assert {frozenset(order[:2]), frozenset(order[2:])} == {
        frozenset({0, 2}),
        frozenset({1, 3}),
    }
    assert order_by_similarity(table[:2]).tolist() == [0, 1]
    assert shorten("decoder/block_001/layer_002/query") == "dec 1.2.query"


def test_bad_flags_are_found_without_tensorflow(tiny, trained, tmp_path):
    for arguments, message in {
        (
            "--tokens=10",
        ): "--tokens is 10, but the interval of a number needs tokens of at least",
        ("--trace_only", "--from_trace"): "give only one",
        ("--trace_only", "--compare_with=x"): "--compare_with has no effect",
        ("--from_trace",): "holds no trace: there is no trace.json",
        (f"--compare_with={tmp_path}",): "is a trace. Make it first",
    }.items():
        outcome = tiny.command(
            "experts", f"--model_dir={trained}", f"--output_dir={tmp_path}", *arguments
        )
        assert outcome.code == 1
        assert message in outcome.err
