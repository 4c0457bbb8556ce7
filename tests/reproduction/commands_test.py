"""The commands of fine-tuned, pruned and planned rows, at small scale and at the paper's."""

from __future__ import annotations

import dataclasses
import types

import pytest

from mtf_switch.cli import main
from mtf_switch.errors import UserError
from mtf_switch.planning import planner
from mtf_switch.reproduction import catalog, jobs, paper_scale, scales
from mtf_switch.reproduction.exhibits.trainings import EXPERTS_TUNED, SWITCH, T5, tune
from mtf_switch.reproduction.paper_scale import FullSizeModel, RowPlanner, Tpu

TINY = scales.choose("tiny")
SHORT = scales.choose("tiny", 20)
TUNED = tune(SWITCH, EXPERTS_TUNED)
PRUNED = catalog.find_row("table_6/pruned_2")[1].training
STUDENT = catalog.find_row("table_8/student")[1].training
PLANNED = catalog.find_row("figure_9/expert_data")[1].training


def make(training, scale=SHORT) -> list[list[str]]:
    commands = scale.make_commands(training, 3, "work/one/model")
    for command in commands:
        # The command line accepts its flags.
        main.make_parser().parse_args(command)
    return commands


def folder_of(command, flag="--model_dir=") -> str:
    (found,) = (text.removeprefix(flag) for text in command if text.startswith(flag))
    return found


def test_a_model_is_pre_trained_measured_fine_tuned_and_scored() -> None:
    train, measure, tune_, score = make(TUNED)
    source = folder_of(train)
    assert source.startswith("work/source_switch_8-3-")
    assert train[:3] == ["train", *(f"--gin_file=scales/tiny{x}.gin" for x in ("", "_experts"))]
    assert measure == [
        *("eval", f"--model_dir={source}", "--perplexity", "--checkpoint_steps=latest"),
        "--eval_batches=40",
    ]
    assert tune_ == [
        *("finetune", "--task=embedded_downstream", f"--init_checkpoint={source}"),
        "--gin_file=runs/demo_finetune.gin",
        "--gin_file=paper/table_4/switch_dropout_0.1_expert_0.4.gin",
        "--gin_param=utils.run.train_steps = 20",
        "--gin_param=utils.run.save_checkpoints_steps = 10",
        *("--seed=3", "--model_dir=work/one/model"),
    ]
    assert score == ["eval", "--model_dir=work/one/model", "--checkpoint_steps=all"]


def test_a_pruned_model_is_made_without_a_step() -> None:
    train, prune, measure = make(PRUNED)
    assert prune == [
        *("prune", f"--model_dir={folder_of(train)}", "--experts=2"),
        "--output_dir=work/one/model",
    ]
    assert measure[1:3] == ["--model_dir=work/one/model", "--perplexity"]
    assert SHORT.count_steps(PRUNED) == 0


def test_a_student_of_a_fine_tuned_teacher_has_two_models_before_it() -> None:
    train, tune_, distil, score = make(STUDENT)
    assert folder_of(tune_, "--init_checkpoint=") == folder_of(train)
    assert folder_of(distil, "--teacher=") == folder_of(tune_)
    assert folder_of(tune_).startswith("work/source_switch_8_tuned_dropout_0.1_expert_0.4-3-")
    assert distil[2] == "--student=scales/tiny.gin"
    assert "--gin_file=runs/demo_finetune.gin" in distil
    assert "--perplexity" not in score


def test_a_plan_is_computed_once(monkeypatch) -> None:
    monkeypatch.setattr(scales, "_compile_flag", list)
    assert make(PLANNED) == [
        [
            *("plan", "--gin_file=models/switch_tiny.gin"),
            *("--gin_file=layouts/expert_data.gin", "--gin_param=num_heads = 8"),
            "--gin_param=utils.run.batch_size = ('tokens_per_batch', 65536)",
            "--output_dir=work/one/model",
        ]
    ]
    listed = jobs.list_jobs([PLANNED, T5], 2)
    assert [str(job) for job in listed] == ["plan_expert_data seed 0", "t5 seed 0", "t5 seed 1"]


@pytest.mark.parametrize("training", [TUNED, PRUNED, STUDENT])
def test_the_configuration_is_that_of_the_source_as_well(training) -> None:
    other = dataclasses.replace(
        training, source=T5 if training is not STUDENT else TUNED.source
    )
    assert TINY.hash_configuration(other) != TINY.hash_configuration(training)
    assert TINY.hash_configuration(training) != SHORT.hash_configuration(training)


def test_configurations_of_what_was_trained_before_are_unchanged() -> None:
    """Results that were recorded by earlier versions stay valid."""
    assert {name: TINY.hash_configuration(t)[:12] for name, t in _OLD.items()} == {
        "t5": "035c5ae3cd3a",
        "switch_8": "e8ac586e1593",
        "student_alone": "042bca637da7",
    }


_OLD = {
    "t5": T5,
    "switch_8": SWITCH,
    "student_alone": catalog.find_row("table_6/distillation")[1].training,
}


def full_size(name: str) -> list[list[str]]:
    exhibit, row = catalog.find_row(name)
    commands = paper_scale.make_commands(exhibit, row, 0, Tpu(("--tpu=t",), "gs://b/p"))
    for command in commands:
        main.make_parser().parse_args(command)
    return commands


def test_full_size_rows_are_fine_tuned_on_each_task() -> None:
    train, *tuned = full_size("table_4/switch_dropout_0.2")
    assert "--gin_file=paper/table_4/pretrain_switch_base.gin" in train
    assert train[-1] == "--model_dir=gs://b/p/table_4/pretrain_switch_base-0"
    assert [command[0] for command in tuned] == ["finetune", "eval"] * 4
    first = tuned[0]
    assert first[2:4] == [
        "--task=glue_v002_proportional",
        "--init_checkpoint=gs://b/p/table_4/pretrain_switch_base-0",
    ]
    assert "--gin_file=paper/table_4/switch_dropout_0.2.gin" in first
    assert (
        first[-1] == "--model_dir=gs://b/p/table_4/switch_dropout_0.2-0-glue_v002_proportional"
    )
    assert "--perplexity" not in tuned[1]
    # Table 5 has the defaults of finetune, which are the paper's.
    assert not any(
        "table_5" in text for text in full_size("table_5/t5_base")[1][:-2] if "gin" in text
    )


def test_a_full_size_student_has_its_teacher() -> None:
    train, distil, _ = full_size("table_6/init")
    assert "--gin_file=paper/table_7/switch_base_64.gin" in train
    assert folder_of(distil, "--teacher=") == folder_of(train)
    assert "--student=paper/table_6/init.gin" in distil
    train, tune_, _, distil, score = full_size("table_8/student")
    assert folder_of(distil, "--teacher=") == folder_of(tune_)
    assert folder_of(tune_, "--init_checkpoint=") == folder_of(train)
    assert "--perplexity" not in score
    _, prune, evaluate = full_size("table_6/pruned_4")
    assert prune[0] == "prune"
    # Its configuration has the layout of the source, which splits 64 experts over 32 cores.
    assert evaluate[-1] == "--gin_file=layouts/data_32.gin"
    assert full_size("figure_9/data") == []


@pytest.mark.parametrize(
    ("name", "teacher", "student"),
    [
        ("table_6/init", "expert_32", "expert_32"),
        ("table_6/control", "data_32", "data_32"),
        ("table_6/pruned_1", "expert_32", None),
        ("table_7/student_16_experts", "data_32", "data_32"),
        ("table_7/student_256_experts", "expert_32", "expert_32"),
        ("table_8/student", "expert_32", "expert_32"),
        ("table_8/control", "data_32", "data_32"),
    ],
)
def test_a_source_is_trained_on_a_layout_that_splits_its_experts(
    name, teacher, student
) -> None:
    commands = full_size(name)
    layouts = [
        [text for text in command if text.startswith("--gin_file=layouts/")]
        for command in commands
    ]
    for command, found in zip(commands, layouts):
        wanted = student if command[0] == "distil" else teacher
        if command[0] in ("train", "finetune", "distil"):
            assert found == [f"--gin_file=layouts/{wanted}.gin"], command


def test_a_teacher_is_fine_tuned_on_its_own_layout() -> None:
    exhibit, row = catalog.find_row("table_8/student")
    row = dataclasses.replace(row, source_layout="layouts/expert_8.gin")
    train, tune_, _, distil, _ = paper_scale.make_commands(exhibit, row, 0, Tpu())
    for command in (train, tune_):
        assert "--gin_file=layouts/expert_8.gin" in command
    assert "--gin_file=layouts/expert_32.gin" in distil


@pytest.fixture
def planned(monkeypatch) -> list:
    """What the planner was asked for: files, and the teacher in the graph."""
    asked = []

    def make_plan(settings, vocabulary_size=None, make_objective=None):
        asked.append((settings, make_objective))
        fits = make_objective is None or "switch_base_16" not in make_objective
        return types.SimpleNamespace(verdict=f"Verdict {len(asked)}.", fits=fits)

    monkeypatch.setattr(planner, "parse_settings", lambda files, params: files)
    monkeypatch.setattr(planner, "make_plan", make_plan)
    return asked


def test_a_student_is_planned_with_its_teacher_and_after_it(planned) -> None:
    rows = RowPlanner(capture_teacher=lambda file: f"objective of {file}")
    exhibit, row = catalog.find_row("table_7/student_256_experts")
    found = rows.plan(row)
    teacher = "paper/table_7/switch_base_256.gin"
    layout = "layouts/expert_32.gin"
    assert planned == [
        ((layout, teacher), None),
        ((layout, "paper/table_7/student.gin"), f"objective of {teacher}"),
    ]
    lines = paper_scale.format_row(exhibit, found, 1, Tpu()).splitlines()
    assert lines[1:3] == [
        f"  plan of the teacher ({layout}): Verdict 1.",
        f"  plan of the student with its teacher ({layout}): Verdict 2.",
    ]
    # A model that several rows need is planned once.
    assert rows.plan(row) == found
    (own,) = rows.plan(catalog.find_row("table_7/teacher_256_experts")[1]).models
    assert (own.verdict, own.model.role) == ("Verdict 1.", "")
    assert len(planned) == 2


def test_a_row_runs_only_if_its_teacher_fits_as_well(planned) -> None:
    rows = RowPlanner(capture_teacher=lambda file: f"objective of {file}")
    exhibit, row = catalog.find_row("table_7/student_16_experts")
    with pytest.raises(
        UserError, match=r"student_16_experts cannot run: Verdict 2\. Leave it out"
    ):
        paper_scale.run(exhibit, [rows.plan(row)], 1, Tpu())


def test_what_is_fine_tuned_or_pruned_is_planned_before_that() -> None:
    (source,) = paper_scale.list_models(catalog.find_row("table_6/pruned_1")[1])
    files = ("layouts/expert_32.gin", "paper/table_7/switch_base_64.gin")
    assert source == FullSizeModel(files, "the model that is pruned")
    (source,) = paper_scale.list_models(catalog.find_row("table_4/t5")[1])
    files = ("layouts/data_32.gin", "paper/table_4/pretrain_t5_base.gin")
    assert source == FullSizeModel(files, "the model that is fine-tuned")


def test_what_runs_only_at_the_papers_scale_says_so() -> None:
    (exhibit,) = catalog.find(["section_5_6"])
    assert catalog.list_trainings([exhibit]) == []
    with pytest.raises(UserError, match=r"Nothing stands for it at small scale.*--scale=paper"):
        catalog.find_row("section_5_6/switch_c")
    row = exhibit.find_row("switch_xxl_multitask")
    train, _ = paper_scale.make_commands(exhibit, row, 0, Tpu())
    assert "--gin_file=paper/section_5_6/switch_xxl_multitask.gin" in train
