"""Tables and plots that benchmarks make from their results. Nothing is measured here."""

from __future__ import annotations

import growth
import startup
import where_time_goes

from mtf_switch import report


def list_rows(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_parts_of_a_step_are_added_up_and_the_sparse_model_decides_their_order():
    steps = [[("a", 1.0), ("a", 2.0), ("b", 1.0)], [("a", 5.0)], [("a", 9.0), ("b", 3.0)]]
    # The sums of a are 3, 5 and 9, and those of b 1, 0 and 3.
    assert where_time_goes._add_up(steps) == {"a": 5.0, "b": 1.0}
    dense = {"competitor": "dense", "experts": 1, "parts": {"attention": 3.0, "other": 1.0}}
    sparse = {"competitor": "gather", "experts": 8}
    sparse["parts"] = {"other": 1.0, "router": 6.0, "attention": 3.0}
    assert list_rows(where_time_goes.format_results([dense, sparse])) == [
        ["part", "dense: core-ms", "share", "gather, 8 experts: core-ms", "share"],
        ["-" * 9, "-" * 14, "-" * 5, "-" * 26, "-" * 5],
        ["router", "", "", "6", "60%"],
        ["attention", "3", "75%", "3", "30%"],
        ["other", "1", "25%", "1", "10%"],
        ["all", "4", "", "10", ""],
    ]


def test_without_another_checkout_start_up_has_no_columns_for_it():
    result = {"what": "eval", "competitor": "this", "seconds": 8.0, "cpu_seconds": [6.0, 8.0]}
    result |= {"seconds_quartiles": [7.0, 9.0], "ratio_to_other": None, "ratio_quartiles": None}
    seconds, cpu = "8.0 (7.0 to 9.0)", "7.0 (6.5 to 7.5)"
    assert list_rows(startup.format_results([result]))[2:] == [["eval", seconds, cpu]]
    both = [
        {**result, "ratio_to_other": 0.5, "ratio_quartiles": [0.25, 0.75]},
        {**result, "competitor": "other", "ratio_to_other": 1.0, "ratio_quartiles": [1, 1]},
    ]
    assert list_rows(startup.format_results(both))[2:] == [
        ["eval", "this", seconds, cpu, "0.50 (0.25 to 0.75)"],
        ["eval", "other", seconds, cpu, "1.00 (1.00 to 1.00)"],
    ]


def test_growth_has_a_row_for_each_size_and_a_panel_for_each_varied_size():
    results = [
        {"varied": varied, "size": size, "competitor": name, "seconds": size * factor / 1e3}
        for varied, values in growth._VARIED.items()
        for size in values
        for factor, name in enumerate(growth._COMPETITORS, 1)
    ]
    rows = list_rows(growth.format_results(results))
    assert rows[2] == ["tokens", "1,024", "1024.0", "2048.0", "3072.0"]
    assert len(rows) == 2 + sum(map(len, growth._VARIED.values()))
    drawn = []

    def draw(figure):
        growth.draw(figure, results)
        drawn.extend(figure.axes)

    assert report.render_png(draw).startswith(b"\x89PNG")
    assert [axis.get_xlabel() for axis in drawn] == list(growth._LABELS.values())
    assert [line.get_ydata()[0] for line in drawn[1].lines] == [2, 4, 6]
