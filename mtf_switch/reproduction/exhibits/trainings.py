"""The trainings that several exhibits share."""

from __future__ import annotations

from mtf_switch.reproduction import metrics
from mtf_switch.reproduction.effects import Difference
from mtf_switch.reproduction.exhibit import Claim, Column, Training

_FACTORS = ("ExpertCapacity.capacity_factor_train", "ExpertCapacity.capacity_factor_eval")
EXPERTS = "experts"

T5 = Training("t5")
T5_LARGE = Training("t5_large", parts=("large",))
SWITCH_LARGE = Training("switch_8_large", parts=(EXPERTS, "large"))
# Table 4's file with the paper's choice for sparse models: dropout 0.1, and 0.4 of the experts.
EXPERTS_TUNED = "switch_dropout_0.1_expert_0.4"
# The scores of models that `tune` makes.
SCORE_COLUMNS = (
    Column(metrics.DOWNSTREAM, "average", 2),
    Column("embedded_package/accuracy", "package accuracy", 2),
    Column("embedded_summary/rouge1", "summary rouge1", 2),
    Column("embedded_module/f1", "module f1", 2),
)
# Why tables of students have controls.
CONTROLS = (
    "A student that starts from the weights of a model has trained for longer than t5 has, "
    "which matters here, where no model is trained to its end. In a control, the dense model "
    "of the same seed is the teacher: what a student is ahead of its control is due to the "
    "sparse teacher."
)
# The layouts of full-size rows on the paper's 32 cores.
DATA_32, EXPERT_32 = "layouts/data_32.gin", "layouts/expert_32.gin"
# The Switch model of a scale's gin file, with 8 experts and input jitter.
SWITCH = Training("switch_8", parts=(EXPERTS,))


def note_experts(paper: int | None = None) -> str:
    """Says how many experts the sparse rows have here.

    Args:
      paper: How many they have in the paper; None if it does not say so.
    """
    of_paper = "" if paper is None else f", and {paper} in the paper"
    return f"The sparse models have 8 experts here{of_paper}."


def switch(experts: int) -> Training:
    """Returns the Switch model with another number of experts."""
    if experts == 8:
        return SWITCH
    params = (f"num_experts = {experts}",)
    return Training(f"switch_{experts}", parts=(EXPERTS,), params=params)


def choose_layout(experts: int) -> str:
    """Returns the layout of a full-size model: 32 cores can split 32 experts or more."""
    return EXPERT_32 if experts >= 32 else DATA_32


def at_capacity(name: str, factor: float, *gin_files: str, part: str | None = None) -> Training:
    """Returns a sparse model with a capacity factor in training and in evaluation."""
    return Training(
        f"{name}_capacity_{factor}",
        parts=(EXPERTS, part) if part else (EXPERTS,),
        gin_files=gin_files,
        params=tuple(f"{parameter} = {factor}" for parameter in _FACTORS),
    )


def switch_at_capacity(factor: float) -> Training:
    """Returns the Switch model with a capacity factor; that of the scales is 2.0."""
    return SWITCH if factor == 2.0 else at_capacity("switch_8", factor)


def tune(source: Training, rates: str) -> Training:
    """Returns a model that is fine-tuned on the tasks of the embedded text.

    Args:
      source: The training whose model is fine-tuned.
      rates: The file of gin/paper/table_4 with the dropout rates.
    """
    return Training(
        f"{source.name}_tuned_{rates.split('_', 1)[1]}",
        gin_files=("runs/demo_finetune.gin", f"paper/table_4/{rates}.gin"),
        source=source,
        command="finetune",
        is_scored=True,
    )


def ahead_of_control(
    text: str, student: str, control: str, metric: str = metrics.QUALITY
) -> Claim:
    """Returns the comparison of a student with a control, which the paper does not make."""
    effect = Difference(student, control, metric)
    return Claim(f"Beyond the paper: {text}", "a control", effect, of_paper=False)
