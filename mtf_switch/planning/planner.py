"""Plans a training step: does the model fit, what does it communicate, how long does it take?

Memory, communication and FLOPs are counted on the graph that the pod would run (`pod_graph`,
`pod_census`). The time is an estimate from the numbers in a hardware file (`hardware`).
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import mesh_tensorflow as mtf

from mtf_switch import machine
from mtf_switch.config import bound_settings, gin_config, run_settings
from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.errors import UserError
from mtf_switch.model import flops
from mtf_switch.model.batch import batch_dimensions
from mtf_switch.model.switch_transformer import get_length, stacks
from mtf_switch.planning import (
    compiled_step,
    core_memory,
    hardware,
    planned_vocabulary,
    pod_census,
    pod_graph,
    step_memory,
)
from mtf_switch.planning.communication import BACKWARD, FORWARD, UPDATE
from mtf_switch.planning.compiled_step import CompiledStep
from mtf_switch.planning.core_memory import StepBatch
from mtf_switch.planning.hardware import Hardware
from mtf_switch.planning.lowered_graph import PodGraph
from mtf_switch.planning.modes import Mode
from mtf_switch.planning.plan import Plan, PlannedVocabulary
from mtf_switch.programs import topology, tpu_compiler
from mtf_switch.programs.topology import Topology
from mtf_switch.runs import step_program
from mtf_switch.runs.objective import ORDINARY, TEACHER_SCOPE, Objective

# The paper's pre-training on a TPU. These files are parsed before the user's.
BASE_FILES = ("runs/c4.gin", "runs/tpu.gin", "hardware/tpu_v3.gin")
MakeObjective = Callable[[run_settings.RunSettings, Any], Objective]
# The task of BASE_FILES.
BASE_TASK = "c4_v220_span_corruption"


def parse_settings(
    gin_files: Sequence[str], gin_params: Sequence[str], batch_tokens: int | None = None
) -> run_settings.RunSettings:
    """Parses a configuration on top of the paper's pre-training on TPU v3.

    Args:
      gin_files: Files for a model, a layout and, optionally, the hardware.
      gin_params: Gin bindings, which override the files.
      batch_tokens: Tokens per step in the longest feature; None means 2^20.

    Raises:
      UserError: If the configuration is wrong, or its mesh has only one core.
    """
    params = list(gin_params)
    if batch_tokens is not None:
        params.append(f"utils.run.batch_size = ('tokens_per_batch', {batch_tokens})")
    parse_files(gin_files, params)
    settings = bound_settings.read_settings()
    if settings.layout.size == 1:
        raise UserError(
            "The planner needs a mesh of several cores. Add a layout, such as "
            "--gin_file=layouts/expert_32.gin."
        )
    return settings


def parse_files(gin_files: Sequence[str], gin_params: Sequence[str] = ()) -> None:
    """Parses gin files and bindings on top of the paper's pre-training on TPU v3."""
    gin_config.parse([*BASE_FILES, *gin_files], gin_params)


def make_plan(
    settings: run_settings.RunSettings,
    vocabulary_size: int | None = None,
    make_objective: MakeObjective | None = None,
) -> Plan:
    """Plans the training step of the parsed configuration.

    Args:
      settings: The settings of the run.
      vocabulary_size, make_objective: See `build_pod`.

    Raises:
      UserError: If the model cannot be built, if the layout cannot split it, or if the
        hardware has no slice of this size.
    """
    start = time.monotonic()
    pod_hardware = read_hardware()
    pod_hardware.check_slice(settings.layout.size)
    pod, vocabulary = build_pod(settings, vocabulary_size, "train", make_objective)
    return plan_pod(pod, settings, vocabulary, pod_hardware, start)


def build_pod(
    settings: run_settings.RunSettings,
    vocabulary_size: int | None = None,
    mode: Mode = "train",
    make_objective: MakeObjective | None = None,
) -> tuple[PodGraph, PlannedVocabulary]:
    """Builds the graph of a step, and returns it with its vocabulary.

    Args:
      settings: The settings of the run.
      vocabulary_size: The number of pieces and sentinels; None for the vocabulary of the task.
        If the task is that of BASE_FILES, a model can replace it with PRETRAINING_TASK.
      mode: The kind of step.
      make_objective: Makes what training minimizes from the settings and the vocabulary; None
        for the ordinary loss.

    Raises:
      UserError: If the model cannot be built, or the layout cannot split it.
    """
    vocabulary = _choose_vocabulary(settings, vocabulary_size)
    padded = types.SimpleNamespace(vocab_size=vocabulary.size)
    objective = make_objective(settings, padded) if make_objective else ORDINARY
    cores = read_hardware().cores_per_chip
    pod = pod_graph.build(settings, padded, mode, objective, cores)
    return pod, vocabulary


def plan_pod(
    pod: PodGraph,
    settings: run_settings.RunSettings,
    vocabulary: PlannedVocabulary,
    pod_hardware: Hardware,
    start: float,
) -> Plan:
    """Plans the training step of a graph.

    Args:
      pod: The graph of a training step.
      settings: The settings for which it was built.
      vocabulary: Its vocabulary.
      pod_hardware: The hardware.
      start: When planning began, by `time.monotonic`.
    """
    layout = settings.layout
    variables = pod_census.measure_variables(pod)
    step = step_memory.measure_step(pod)
    collectives = pod_census.count_collectives(pod)
    matmuls = pod_census.count_matmuls(pod)
    rest = (*core_memory.TEMPORARY_GROUPS, core_memory.CODE)
    memory = core_memory.measure_memory(
        variables, layout, {group: getattr(step, group) for group in rest}
    )
    core_flops = {
        phase: sum(matmul.flops for matmul in matmuls if matmul.phase == phase)
        for phase in (FORWARD, BACKWARD, UPDATE)
    }
    variable_bytes = sum(memory[group] for group in core_memory.VARIABLE_GROUPS)
    microbatch = _describe_batch(pod, settings)
    return Plan(
        layout=layout,
        batch_tokens=settings.batch_size * _count_input_tokens(pod, settings),
        sequences=settings.batch_size,
        microbatches=pod.microbatches,
        vocabulary=vocabulary,
        parameters={
            group: sum(variable.size for variable in variables if variable.group == group)
            for group in core_memory.PARAMETER_GROUPS
        },
        optimizer_slots=sum(
            variable.size
            for variable in variables
            if variable.group == core_memory.OPTIMIZER_SLOTS
        ),
        flops_per_sequence=_compute_flops_per_sequence(pod, settings),
        flops_per_step=layout.size * sum(core_flops.values()),
        core_flops=core_flops,
        core_matmul_bytes=sum(matmul.bytes for matmul in matmuls),
        memory=memory,
        activations_unfused=step.unfused,
        collectives=collectives,
        estimate=hardware.estimate_step(
            pod_hardware, layout, matmuls, variable_bytes, collectives
        ),
        verdict=core_memory.describe_fit(variables, memory, layout, microbatch, pod_hardware),
        seconds_to_plan=time.monotonic() - start,
        peak_rss_bytes=machine.read_peak_memory(),
    )


def compile_step(
    settings: run_settings.RunSettings,
    vocabulary_size: int | None = None,
    topology_name: str | None = None,
    mode: Mode = "train",
) -> CompiledStep:
    """Compiles a step of the parsed configuration with the TPU's own compiler.

    Args:
      settings: The settings of the run.
      vocabulary_size: See `build_pod`.
      topology_name: The pod; None for one of the hardware with as many cores as the mesh.
      mode: The kind of step. A training step is also planned.

    Raises:
      UserError: If the configuration is wrong, if the topology has another number of cores, or
        if the compiler is missing or refuses the step for a reason other than its memory.
    """
    start = time.monotonic()
    pod_hardware = read_hardware()
    chosen = _choose_topology(topology_name, pod_hardware, settings.layout)
    tpu_compiler.find_library()
    pod, vocabulary = build_pod(settings, vocabulary_size, mode)
    plan = None
    if mode == "train":
        plan = plan_pod(pod, settings, vocabulary, pod_hardware, start)
    lowering_start = time.monotonic()
    program = step_program.make_program(pod.mesh_impl, pod.features, pod.results)
    seconds_to_lower = time.monotonic() - lowering_start
    outcome = tpu_compiler.compile_program(program, chosen)
    verdict = compiled_step.judge(
        outcome,
        pod_census.measure_variables(pod),
        settings.layout,
        _describe_batch(pod, settings, mode),
        pod_hardware,
    )
    return CompiledStep(
        mode, settings.layout, plan, program, outcome, verdict, seconds_to_lower
    )


def _choose_topology(name: str | None, pod_hardware: Hardware, layout: MeshLayout) -> Topology:
    if name is None:
        return topology.choose(pod_hardware.name.removeprefix("TPU "), layout.size)
    chosen = topology.read(name)
    topology.check_cores(chosen, layout.size, layout.mesh_shape)
    return chosen


def _describe_batch(
    pod: PodGraph, settings: run_settings.RunSettings, mode: Mode = "train"
) -> StepBatch:
    """Returns the size of a microbatch."""
    return StepBatch(
        sequences=batch_dimensions(settings)[-1].size // pod.microbatches,
        sequence_length=max(settings.sequence_length.values()),
        trains=mode == "train",
    )


def _count_input_tokens(pod: PodGraph, settings: run_settings.RunSettings) -> int:
    """Returns the tokens in the inputs of a sequence: those of the model's first stack."""
    return get_length(next(stacks(pod.model)), settings)


def _choose_vocabulary(
    settings: run_settings.RunSettings, size: int | None
) -> PlannedVocabulary:
    if size is not None:
        return PlannedVocabulary(size, "--vocab_size")
    task = planned_vocabulary.choose_task(settings.task, BASE_TASK)
    return planned_vocabulary.find_vocabulary(task)


def read_hardware() -> Hardware:
    """Returns the hardware of the parsed configuration.

    Raises:
      UserError: If it is not fully described.
    """
    try:
        return Hardware()
    except TypeError as error:
        raise UserError(
            "The hardware is not fully described. A file in gin/hardware/ must bind every "
            f"parameter of Hardware ({str(error).splitlines()[0]})."
        ) from error


def _compute_flops_per_sequence(pod: PodGraph, settings: run_settings.RunSettings) -> float:
    matmuls = [
        operation
        for operation, phase in pod.phases.items()
        if phase == FORWARD
        and isinstance(operation, mtf.EinsumOperation)
        and f"/{TEACHER_SCOPE}/" not in operation.name
    ]
    sequences = settings.batch_size // pod.microbatches
    return flops.compute_flops_per_sequence(pod.model, matmuls, sequences, settings)
