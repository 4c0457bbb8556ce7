"""The exhibits as data: their rows, claims and files exist, and their numbers are the paper's."""

from __future__ import annotations

import dataclasses
import re
import types
from pathlib import Path

import pytest
from paper_rows import ROWS

from mtf_switch.cli import main
from mtf_switch.config import bound_settings, gin_config, gin_files, given_bindings
from mtf_switch.errors import UserError
from mtf_switch.model import switch_transformer
from mtf_switch.model.flops import compute_cost
from mtf_switch.reproduction import (
    catalog,
    effects,
    language_section,
    metrics,
    paper_scale,
    plots,
    scales,
)
from mtf_switch.reproduction.catalog import EXHIBITS

each_exhibit = pytest.mark.parametrize("exhibit", EXHIBITS.values(), ids=list(EXHIBITS))
each_scale = pytest.mark.parametrize("scale", scales.SCALES.values(), ids=list(scales.SCALES))


@each_exhibit
def test_what_an_exhibit_names_exists(exhibit) -> None:
    names = [row.name for row in exhibit.rows]
    assert len(set(names)) == len(names)
    assert exhibit.baseline in names
    assert exhibit.claims
    for claim in exhibit.claims:
        assert set(claim.effect.rows) <= set(names), claim
        assert claim.effect.describe()
    assert set(exhibit.plots) <= set((language_section if exhibit.by_language else plots).PLOTS)
    assert {column.metric for column in exhibit.columns} <= set(metrics.METRICS)
    for row in exhibit.rows:
        files = [row.paper_file, *row.paper_files, row.layout]
        files += [row.paper_source] if row.paper_source else []
        assert all(gin_files.find_file(file) for file in files), row


@each_exhibit
def test_the_papers_numbers_are_those_of_the_other_list(exhibit) -> None:
    for row in exhibit.rows:
        name = row.paper_file.removeprefix("paper/").removesuffix(".gin")
        if exhibit.name in ("figure_9", "table_4"):
            # Figure 9 prints no numbers, and those of Table 4 are in `paper_tables`.
            continue
        header = " ".join(ROWS[name].header)
        digits = 2 if exhibit.name == "table_3" else 3
        for metric in {"quality", "quality_at_half"} & row.paper.keys():
            if exhibit.name.startswith("table"):
                assert f"{row.paper[metric]:.{digits}f}" in header, row
        if "examples_per_second" in row.paper:
            assert f"{row.paper['examples_per_second']}" in header, row
        for metric in ("quality_deviation", "hours_to_quality", "quality_at_16_hours"):
            if metric in row.paper:
                assert f"{row.paper[metric]}" in header, row


@each_exhibit
def test_a_page_says_how_many_experts_its_models_have(exhibit) -> None:
    sparse = [
        row
        for row in exhibit.rows
        if row.training
        and any("experts" in t.parts for t in (*row.training.sources, row.training))
    ]
    is_said = any("sparse models have 8 experts here" in note for note in exhibit.notes)
    assert is_said or all("experts" in row.title for row in sparse)


def test_a_name_stands_for_one_training() -> None:
    found = {}
    for exhibit in EXHIBITS.values():
        for training in exhibit.trainings:
            assert found.setdefault(training.name, training) == training


@each_scale
def test_no_two_trainings_are_the_same(scale) -> None:
    trainings = catalog.list_trainings(list(EXHIBITS.values()))
    hashes = {training.name: scale.hash_configuration(training) for training in trainings}
    assert len(set(hashes.values())) == len(hashes)


@each_scale
def test_the_files_of_a_scale_exist_and_say_how_long_it_takes(scale) -> None:
    for training in catalog.list_trainings(list(EXHIBITS.values())):
        assert all(gin_files.find_file(file) for file in scale.list_files(training)), training
        if training.command in ("prune", "plan"):
            continue
        assert scale.count_steps(training) >= 1000
        small = training.base_file or training.is_scored or scale.name == "tiny"
        assert scale.count_examples(training) == (32 if small else 64)


def test_every_table_and_figure_of_the_paper_with_numbers_has_a_place() -> None:
    tables = [f"table_{number}" for number in range(1, 12)]
    figures = [f"figure_{number}" for number in (1, 3, 4, 5, 6, 7, 8, 9, 12, 13)]
    sections = ["section_2_4", "section_3_2", "section_4_2", "section_4_3"]
    sections += ["section_5", "section_5_6"]
    places = [*EXHIBITS, *catalog.SECTIONS]
    assert set(places) == {*tables, *figures, *sections, "appendix_b"}
    assert len(set(places)) == len(places)


def test_a_section_has_the_exhibits_whose_claims_it_makes() -> None:
    for name, parts in catalog.SECTIONS.items():
        place = f"Section {'.'.join(name.split('_')[1:])}"
        # Section 5.6 is an exhibit of its own.
        found = [
            exhibit.name
            for exhibit in EXHIBITS.values()
            if any(claim.place.startswith(f"{place},") for claim in exhibit.claims)
        ]
        assert sorted(found or parts) == sorted(parts), name


def test_a_name_finds_its_exhibits() -> None:
    found = [e.name for e in catalog.find(["section_2_4"])]
    assert found == ["table_2", "table_3", "table_4"]
    assert [e.name for e in catalog.find(["table_3", "table_11", "table_3"])] == [
        *("table_3", "table_11"),
    ]
    assert catalog.find(["all"]) == list(EXHIBITS.values())
    exhibit, row = catalog.find_row("table_11/argmax")
    assert (exhibit.name, row.name) == ("table_11", "argmax")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: catalog.find(["table_12"]), "no table, figure or section 'table_12'.*table_1"),
        (
            lambda: catalog.select_rows(EXHIBITS["table_11"], ["argmx"]),
            "Table 11 has no row 'argmx'. The nearest names are: argmax.*input_jitter",
        ),
        (lambda: catalog.find_row("table_11"), "write the exhibit and the row"),
        (lambda: catalog.find_row("table_11/nope"), "Table 11 has no row 'nope'"),
        (lambda: catalog.find_row("all/argmax"), "'all' stands for several.*figure_1/ROW"),
        (lambda: catalog.find_row("section_4_2/init"), "'section_4_2' stands.*table_6/ROW"),
        (lambda: catalog.find(["section_4_4"]), "nearest names are: .*section_4_2"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(call, message) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_a_label_is_written_as_in_the_paper() -> None:
    names = ("table_11", "figure_4", "appendix_b", "section_5_6")
    labels = [EXHIBITS[name].label for name in names]
    assert labels == ["Table 11", "Figure 4", "Appendix B", "Section 5.6"]


@each_exhibit
def test_a_claim_of_the_paper_is_true_of_its_numbers(exhibit) -> None:
    for claim in exhibit.claims:
        paper = claim.paper or claim.effect.find_in_paper(exhibit.paper_numbers)
        if claim.of_paper and paper is not None:
            assert paper > claim.limit, claim.text


@each_exhibit
def test_a_claim_says_what_its_effect_tests(exhibit) -> None:
    """What the paper says beyond that is in parentheses."""
    for claim in exhibit.claims:
        judged = claim.text.split("(")[0]
        assert "about" not in judged, claim.text
        assert not re.search(r": \d|, \d+%", judged), claim.text
        compared = " ".join(claim.effect.rows)
        numbers = re.findall(r"(\d+) experts", judged) + re.findall(r"here (\d+)", claim.text)
        for number in numbers:
            assert re.search(rf"_{number}(\D|$)", compared), claim.text
        if claim.above is not None and not judged.startswith("Most"):
            limit = abs(claim.above)
            assert f"{limit:g}" in judged or f"{limit:.0%}" in judged, claim.text


def read_bindings(*files: str) -> dict[str, object]:
    return {binding.key: binding.value for binding in given_bindings.read(files, ())}


@each_exhibit
def test_the_layout_of_a_full_size_row_can_split_its_experts(exhibit) -> None:
    for row in exhibit.rows:
        for model in paper_scale.list_models(row):
            layout, *own = model.files
            found = read_bindings(layout)
            if "experts:data" not in found["utils.run.layout_rules"]:
                continue
            for files in (own, [model.teacher] if model.teacher else []):
                experts = read_bindings(*files).get("num_experts", 0)
                assert experts % found["mesh.data"] == 0, (row.name, layout)


def test_trainings_that_rows_share_are_listed_once() -> None:
    figures = [EXHIBITS["figure_1"], EXHIBITS["figure_4"]]
    assert len(catalog.list_trainings(figures)) == 9
    assert [t.name for t in catalog.list_trainings(figures[:1], ["t5", "switch_8"])] == [
        *("t5", "switch_8"),
    ]


def test_a_scale_with_other_steps_has_another_label_and_configuration() -> None:
    usual, short = scales.choose("tiny"), scales.choose("tiny", 20)
    (training,) = catalog.list_trainings([EXHIBITS["figure_4"]], ["switch_8"])
    assert (usual.label, short.label) == ("tiny", "tiny, 20 steps")
    assert short.count_steps(training) == 20
    assert usual.hash_configuration(training) != short.hash_configuration(training)
    train, evaluate = short.make_commands(training, 3, "D")
    assert train == [
        *("train", "--gin_file=scales/tiny.gin", "--gin_file=scales/tiny_experts.gin"),
        "--gin_param=utils.run.train_steps = 20",
        "--gin_param=utils.run.save_checkpoints_steps = 2",
        *("--seed=3", "--model_dir=D"),
    ]
    assert evaluate == [
        *("eval", "--model_dir=D", "--perplexity", "--checkpoint_steps=all"),
        "--eval_batches=40",
    ]


@each_scale
def test_the_bindings_of_every_training_are_used(scale) -> None:
    for training in catalog.list_trainings(list(EXHIBITS.values())):
        if training.command in ("prune", "plan"):
            continue
        gin_config.parse(*scale.list_configuration(training))
        assert bound_settings.read_settings().train_steps == scale.count_steps(training)


@pytest.mark.slow
@each_scale
def test_sparse_and_dense_models_have_the_same_flops(scale) -> None:
    flops = {}
    for training in catalog.list_trainings(list(EXHIBITS.values())):
        if training.command != "train":
            continue
        gin_config.parse(scale.list_files(training), scale.list_params(training))
        settings = bound_settings.read_settings()
        built = switch_transformer.build(settings, types.SimpleNamespace(vocab_size=1124))
        flops[training.name] = compute_cost(built, settings).flops_per_token
    # A router has d_model x experts weights in two layers; 256 experts cost a third of a layer.
    for experts in (2, 4, 8):
        assert flops[f"switch_{experts}"] == pytest.approx(flops["t5"], rel=0.02)
    assert 3.2 < flops["t5_large"] / flops["t5"] < 3.6


def test_a_student_trains_its_teacher_first_beside_its_own_folder() -> None:
    scale = scales.choose("tiny", 20)
    _, row = catalog.find_row("table_6/distillation")
    teach, distil, evaluate = scale.make_commands(row.training, 3, "work/student/model")
    (teacher,) = (text for text in teach if text.startswith("--model_dir="))
    assert teacher.startswith("--model_dir=work/source_switch_8-3-")
    assert distil[:3] == [
        "distil",
        teacher.replace("model_dir", "teacher"),
        "--student=scales/tiny.gin",
    ]
    assert "--gin_param=distillation.soft = 1.0" in distil
    assert "--gin_param=distillation.init = 'none'" in distil
    assert distil[-2:] == ["--seed=3", "--model_dir=work/student/model"]
    assert evaluate[:2] == ["eval", "--model_dir=work/student/model"]
    main.make_parser().parse_args(distil)
    # Another teacher is another configuration.
    other = dataclasses.replace(
        row.training, source=catalog.find_row("figure_4/switch_2")[1].training
    )
    assert scale.hash_configuration(other) != scale.hash_configuration(row.training)


def test_the_sizes_of_table_9_are_those_of_the_page_of_models() -> None:
    """tests/project/models_page_test.py counts them."""
    page = Path("docs/models.md").read_text()
    for row in EXHIBITS["table_9"].rows:
        numbers = row.counted["full_parameters"], row.counted["full_flops"] / 1e9
        assert f"| `{row.name}` | {numbers[0]:,} | {numbers[1]:,.4g} |" in page
        assert row.counted["full_parameters"] == pytest.approx(
            row.paper["full_parameters"], rel=0.12
        )


def test_the_share_of_the_gain_is_the_papers() -> None:
    table = EXHIBITS["table_6"]
    paper = {row.name: row.paper for row in table.rows}
    found = [
        effects.ShareOfGain(name, "t5", "teacher").find_in_paper(paper)
        for name in ("distillation", "distillation_init", "distillation_init_mix")
    ]
    # Table 6 prints 3%, 20% and 29%.
    assert [round(share, 2) for share in found] == [0.03, 0.2, 0.29]
    table = EXHIBITS["table_8"]
    paper = {row.name: row.paper for row in table.rows}
    share = effects.ShareOfGain("student", "t5", "teacher", "downstream")
    # Table 8 prints 30%.
    assert share.find_in_paper(paper) == pytest.approx(0.3, abs=0.005)


def test_the_guide_lists_all_names() -> None:
    page = Path("docs/reproduction.md").read_text()
    for name, parts in catalog.SECTIONS.items():
        assert f"| `{name}` | {', '.join(f'`{part}`' for part in parts)} |" in page
    numbers = {1, *range(3, 10), 12, 13}
    assert {name for name in EXHIBITS if name.startswith("figure")} == {
        f"figure_{number}" for number in numbers
    }
    assert "| `figure_1`, `figure_3` to `figure_9`, `figure_12`, `figure_13` |" in page
