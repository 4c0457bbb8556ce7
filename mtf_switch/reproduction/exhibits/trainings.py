"""The trainings that several exhibits share."""

from __future__ import annotations

from mtf_switch.reproduction.exhibit import Training

_FACTORS = ("ExpertCapacity.capacity_factor_train", "ExpertCapacity.capacity_factor_eval")
EXPERTS = "experts"

T5 = Training("t5")
T5_LARGE = Training("t5_large", parts=("large",))
# The Switch model of a scale's gin file, with 8 experts and input jitter.
SWITCH = Training("switch_8", parts=(EXPERTS,))


def switch(experts: int) -> Training:
    """Returns the Switch model with another number of experts."""
    if experts == 8:
        return SWITCH
    params = (f"num_experts = {experts}",)
    return Training(f"switch_{experts}", parts=(EXPERTS,), params=params)


def at_capacity(name: str, factor: float, *gin_files: str, part: str | None = None) -> Training:
    """Returns a sparse model with a capacity factor in training and in evaluation."""
    return Training(
        f"{name}_capacity_{factor}",
        parts=(EXPERTS, part) if part else (EXPERTS,),
        gin_files=gin_files,
        params=tuple(f"{parameter} = {factor}" for parameter in _FACTORS),
    )
