"""The report of an exhibit on made-up results: table, claims, warnings, files."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from made_results import CONTEXT, make_result, make_seeds
from made_results import TABLE_11 as RESULTS
from matplotlib.figure import Figure

from mtf_switch.reproduction import exhibit_report
from mtf_switch.reproduction.catalog import EXHIBITS

TABLE = EXHIBITS["table_11"]


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")]


def test_the_table_has_the_papers_numbers_ours_and_the_paired_differences() -> None:
    head, line, argmax, softmax, dropout, jitter = rows_of(
        exhibit_report.format_table(TABLE, RESULTS)
    )
    assert head == [
        *("", "paper: neg. log perplexity", "ours: neg. log perplexity"),
        *("minus argmax: paper", "minus argmax: ours"),
    ]
    assert line == ["---"] * 5
    # Mean, deviation 0.02, and 4.302653 * 0.02 / sqrt(3) = 0.0497.
    assert argmax == [
        *("Argmax", "-1.471", "-2.5200 +- 0.0200 [-2.5697, -2.4703]", "", ""),
    ]
    assert softmax[1] == "-1.570"
    assert softmax[3:] == ["-0.099", "-0.1000 [-0.1000, -0.1000]"]
    assert dropout[2:] == ["not run", "-0.009", ""]
    # Differences 0.01, 0.00 and 0.01.
    assert jitter[4].startswith("+0.0067 [-0.0077,")


def test_numbers_that_only_the_paper_has_stand_alone() -> None:
    head, _, first, *_ = rows_of(exhibit_report.format_table(EXHIBITS["table_3"], {}))
    assert (head[1], first[1]) == ("paper: neg. log perplexity", "-2.720 +- 0.01")
    for name, title, number in (
        ("table_1", "hours to -1.50", "131.1"),
        ("table_10", "after 16 hours", "-1.606"),
    ):
        head, _, _, second, *_ = rows_of(exhibit_report.format_table(EXHIBITS[name], {}))
        place = head.index(f"paper: {title}")
        assert second[place] == number
        assert not head[place + 1].startswith("ours")


def test_claims_have_their_place_effects_and_verdict() -> None:
    page = exhibit_report.make_report(TABLE, RESULTS, CONTEXT).documents["table_11.md"]
    lines = [line for line in page.splitlines() if "Appendix C, Table 11" in line]
    verdicts = [line.rsplit("| ", 1)[1].strip(" *|") for line in lines]
    assert verdicts == [
        "not resolved at this scale",
        "not run",
        "same direction, interval excludes 0",
        "same direction, interval excludes 0",
    ]
    assert "| +0.099 | +0.100 [+0.100, +0.100] |" in lines[3]


def test_students_have_their_compression_and_share_of_the_gain() -> None:
    results = {
        "t5": make_seeds(-2.5, -2.5, -2.5, parameters=50),
        "teacher": make_seeds(-2.3, -2.3, -2.1, parameters=1000),
        # Shares 0.5, 0.25 and 0.15: on average 30%, with a deviation of 18.03%.
        "distillation_init_mix": make_seeds(-2.4, -2.45, -2.44, parameters=50),
        "init": make_seeds(-2.6, -2.6, parameters=50),
        "distillation": make_seeds(-2.4, parameters=50),
    }
    head, _, *rows = rows_of(exhibit_report.format_table(EXHIBITS["table_6"], results))
    share = "% of the teacher's gain"
    assert head[-3:] == ["compression", f"paper: {share}", f"ours: {share}"]
    found = {row[0]: row[-3:] for row in rows}
    assert found["T5-Base"] == found["Switch-Base (teacher)"] == ["", "", ""]
    # 4.302653 * 18.03 / sqrt(3) = 44.78.
    assert found["+ 0.75 labels, 0.25 teacher"] == ["95%", "+29", "+30 [-15, +75]"]
    assert found["non-expert weights, no distillation"] == ["95%", "-2", "-50 [-50, -50]"]
    assert found["distillation"] == ["95%", "+3", "+50 (1 seed)"]
    assert found["+ non-expert weights of the teacher"] == ["", "+20", ""]


def test_a_share_says_in_how_many_seeds_the_teacher_has_a_gain() -> None:
    results = {
        "t5": make_seeds(-2.5, -2.5, -2.5, parameters=50),
        "teacher": make_seeds(-2.3, -2.3, -2.6, parameters=1000),
        # Shares 0.5 and 0.3. The last student is the best model of its seed.
        "distillation_init_mix": make_seeds(-2.4, -2.44, -2.0, parameters=50),
    }
    report = exhibit_report.make_report(EXHIBITS["table_6"], results, CONTEXT)
    # 12.706205 * 14.14 / sqrt(2) = 127.1.
    assert "| 95% | +29 | +40 [-87, +167] (2 of 3 seeds) |" in report.text
    shares = [claim for claim in report.data["claims"] if "keeps" in claim["claim"]]
    assert [claim["verdict"] for claim in shares] == ["not resolved at this scale"] * 2
    assert shares[0]["ours"]["left_out"] == 1
    rows = list(csv.DictReader(io.StringIO(report.documents["table_6.csv"])))
    *known, missing = (row["share_of_gain"] for row in rows if row["row"].endswith("_mix"))
    assert [float(text) for text in known] == pytest.approx([0.5, 0.3])
    assert missing == ""


@pytest.mark.parametrize("exhibit", EXHIBITS.values(), ids=EXHIBITS)
def test_the_row_of_a_teacher_shows_its_training(exhibit) -> None:
    for row in exhibit.rows:
        command = row.training and row.training.command
        assert (row.teacher is not None) == (command in ("distil", "prune"))
        if row.teacher is not None:
            # The teacher of a control is the dense model.
            name = exhibit.baseline if row.name.startswith("control") else row.teacher
            assert exhibit.find_row(name).training == row.training.source


def test_all_files_are_written(tmp_path) -> None:
    report = exhibit_report.make_report(TABLE, RESULTS, CONTEXT)
    report.write(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("table_11.json", "table_11.md", "table_11.csv", "table_11.png"),
    }
    content = json.loads((tmp_path / "table_11.json").read_text())
    assert content["rows"]["argmax"]["seeds"] == [0, 1, 2]
    assert content["claims"][3]["ours"]["center"] == pytest.approx(0.1)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table_11.csv").read_text())))
    assert len(rows) == 9
    assert rows[1]["quality"] == "-2.52"
    assert rows[1]["signature"] in (tmp_path / "table_11.md").read_text()


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_exhibit_is_drawn(name, tmp_path) -> None:
    exhibit = EXHIBITS[name]
    if exhibit.only_at_paper_scale:
        pytest.skip("It has no results.")
    metrics = {"dropped_training": 0.01, "dropped_evaluation": 0.02}
    metrics |= {"downstream": 30.0, "upstream": -2.5, "planned_bytes": 2**20, "sent_bytes": 9.0}
    results = {
        row.name: make_seeds(-2.5 - 0.1 * n, -2.6, training=row.training.name, **metrics)
        for n, row in enumerate(exhibit.rows[:-1])
    }
    broken = make_result(curve=[(0, -7.0), (50, -4.0)], diverged_at=73)
    results[exhibit.rows[-1].name] = {0: broken}
    report = exhibit_report.make_report(exhibit, results, CONTEXT)
    report.write(str(tmp_path))
    # Results without languages have no plot by language, but a sentence that says so.
    smallest = 5_000 if exhibit.by_language else 10_000
    assert (tmp_path / f"{name}.png").stat().st_size > smallest
    assert exhibit.is_computed or "diverged at step 73" in report.text


def test_the_steps_of_divergence_are_shown() -> None:
    runs = {
        seed: make_result(-2.5, seed, curve=[(0, -7.0), (50, -4.0)], diverged_at=at)
        for seed, at in enumerate((60, 1200, None))
    }
    results = {"argmax": runs, "input_jitter": {0: runs[0]}}
    report = exhibit_report.make_report(TABLE, results, CONTEXT)
    lines = report.documents["table_11.md"].splitlines()
    row = next(line for line in lines if line.startswith("| Argmax"))
    assert "-4.0000 (2 of 3 diverged at steps 60 to 1,200)" in row
    row = next(line for line in lines if line.startswith("| Input jitter"))
    assert "| diverged at step 60 |" in row
    assert report.data["rows"]["argmax"]["diverged_at"] == {0: 60, 1: 1200}
    figure = Figure()
    report.plots["table_11.png"](figure)
    _, labels = figure.axes[0].get_legend_handles_labels()
    assert "Argmax, 2 of 3 diverged at steps 60 to 1,200" in labels
    assert figure.axes[0].get_xlabel() == "training steps"


def test_a_seed_that_lacks_a_metric_is_counted_and_hides_no_other_one() -> None:
    """A run that diverged has no evaluation at its end, so it drops no tokens there."""
    dropped = {"dropped_training": 0.1, "dropped_evaluation": 0.2}
    results = {row.name: make_seeds(-2.5, -2.6, **dropped) for row in EXHIBITS["figure_3"].rows}
    broken = make_result(seed=1, curve=[(0, -7.0)], diverged_at=60, dropped_training=0.1)
    results["capacity_2.0"][1] = broken
    report = exhibit_report.make_report(EXHIBITS["figure_3"], results, CONTEXT)
    line = next(line for line in report.text.splitlines() if "capacity factor 2.0" in line)
    assert "| 0.1000 | 0.2000 (1 of 2 seeds) |" in line
    assert "+0.000 (1 of 2 seeds)" in report.text
    report.plots["figure_3.png"](figure := Figure())
    _, evaluation = figure.axes[0].get_lines()
    assert evaluation.get_ydata().tolist() == pytest.approx([20, 20, 20])
    results["capacity_2.0"] = {1: broken}
    report.plots["figure_3.png"](figure := Figure())
    _, evaluation = figure.axes[0].get_lines()
    assert math.isnan(evaluation.get_ydata()[2])


def test_a_speed_up_that_is_infinite_is_written_into_the_plot() -> None:
    """The dense model of seed 1 diverged."""
    results = {
        "t5": {**make_seeds(-2.5), 1: make_result(seed=1, curve=[(0, -7.0)], diverged_at=60)},
        "switch_2": make_seeds(-2.4, -2.4),
        "switch_4": make_seeds(-2.4),
    }
    report = exhibit_report.make_report(EXHIBITS["figure_4"], results, CONTEXT)
    report.plots["figure_4.png"](figure := Figure())
    texts = [(text.get_text(), text.get_position()[0]) for text in figure.axes[2].texts]
    assert texts == [("infinite", 0)]


def test_many_rows_and_far_differences_can_be_read() -> None:
    table = EXHIBITS["table_6"]
    results = {
        row.name: make_seeds(-2.5 - 0.01 * n, -2.5 - 0.01 * n, training=row.training.name)
        for n, row in enumerate(table.rows)
    }
    results["pruned_1"] = make_seeds(-6.0, -7.0, training="switch_8_pruned_1")
    figure = Figure(layout="constrained")
    exhibit_report.make_report(table, results, CONTEXT).plots["table_6.png"](figure)
    figure.draw_without_rendering()
    differences, curves = figure.axes
    assert differences.get_yscale() == "symlog"
    legend = curves.get_legend()
    assert legend.get_window_extent().x0 >= curves.get_window_extent().x1
    names = [text.get_text() for text in legend.get_texts()]
    # 14 rows without the three pruned models, which have no curve.
    assert len(names) == 11
    assert "start from the mean of the experts" in names


def test_the_columns_of_students_are_in_all_files() -> None:
    table = EXHIBITS["table_6"]
    results = {
        "t5": make_seeds(-2.0, -2.0, parameters=100),
        "teacher": make_seeds(-1.0, -1.0, parameters=1000),
        "pruned_2": make_seeds(-1.5, -1.7, parameters=250),
    }
    report = exhibit_report.make_report(table, results, CONTEXT)
    assert "| 75% |  | +40 [-87, +167] |" in report.documents["table_6.md"]
    found = report.data["rows"]["pruned_2"]
    assert found["compression"] == 0.75
    assert found["share_of_gain"]["center"] == pytest.approx(0.4)
    assert found["paper_share_of_gain"] is None
    of_paper = report.data["rows"]["distillation_init_mix"]
    assert of_paper["paper_share_of_gain"] == pytest.approx(0.29, abs=0.005)
    assert "compression" not in report.data["rows"]["t5"]
    rows = list(csv.DictReader(io.StringIO(report.documents["table_6.csv"])))
    shares = [(row["row"], row["compression"], row["share_of_gain"][:4]) for row in rows]
    assert shares[-2:] == [("pruned_2", "0.75", "0.5"), ("pruned_2", "0.75", "0.30")]
    assert shares[0] == ("t5", "", "")


def test_what_is_computed_has_no_interval_and_a_verdict() -> None:
    figure = EXHIBITS["figure_9"]
    sent = {"data": 0.0, "model": 5.0, "model_data": 2.0, "expert_data": 3.0}
    results = {
        name: {0: make_result(forward_bytes=value, planned_bytes=8.0, weight_bytes=1.0)}
        for name, value in sent.items()
    }
    report = exhibit_report.make_report(figure, results, CONTEXT)
    page = report.documents["figure_9.md"]
    assert "Ours is computed, without a seed." in page
    assert "| +5.000 | **same direction, computed** |" in page
    verdicts = [claim["verdict"] for claim in report.data["claims"]]
    # Equal weights are neither above nor below the limit.
    assert verdicts[:3] == [
        "same direction, computed",
        *["not resolved at this scale, computed"],
        "same direction, computed",
    ]
    drawn = Figure()
    report.plots["figure_9.png"](drawn)
    _, labels = drawn.axes[0].get_legend_handles_labels()
    # The compiler is not installed, so it has no bars.
    assert labels == ["weights", "all, planned"]


def test_what_is_only_at_the_papers_scale_says_why_and_shows_its_numbers() -> None:
    report = exhibit_report.make_report(EXHIBITS["section_5_6"], {}, CONTEXT)
    page = report.documents["section_5_6.md"]
    assert "Nothing stands for it at small scale" in page
    assert "| Switch-C |  | not run | 87.7 | not run |" in page
    assert "+1.900 |  | **not run** |" in page


def test_sizes_that_are_counted_stand_beside_the_printed_ones() -> None:
    report = exhibit_report.make_report(EXHIBITS["table_9"], {}, CONTEXT)
    assert "| Switch-C | 1,571,000,000,000 | 1,571,375,798,688 |" in report.text
    assert report.data["rows"]["switch_c"]["counted"]["full_parameters"] == 1571375798688


def test_without_results_the_report_says_so_and_has_no_plot() -> None:
    report = exhibit_report.make_report(TABLE, {}, CONTEXT)
    assert report.plots == {}
    assert "No row was run yet." in report.documents["table_11.md"]
    assert report.text.count("**not run**") == 4


def test_one_seed_has_no_interval() -> None:
    results = {name: {0: of_row[0]} for name, of_row in RESULTS.items() if of_row}
    table = exhibit_report.format_table(TABLE, results)
    assert "| -2.5000 |" in table
    assert "-0.1000 (1 seed)" in table
    claims = exhibit_report.make_report(TABLE, results, CONTEXT).text
    assert claims.count("**not resolved at this scale**") == 3
