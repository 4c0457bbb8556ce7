"""The settings of a run, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from mtf_switch.config.mesh_layout import MeshLayout


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """The parameters of `utils.run`, with references evaluated. The names are T5's.

    The last three are those of `utils.tpu_estimator_model_fn`.

    Attributes:
      model_type: "bitransformer" or another of Mesh TF's model types.
      task: Name of a task or mixture in seqio's registry.
      batch_size: Sequences per step.
      sequence_length: {"inputs": L, "targets": L'}, in tokens.
      train_steps: The step at which training ends.
      mesh_shape: mtf.Shape of the mesh.
      layout_rules: mtf.LayoutRules of the mesh.
      learning_rate_schedule: A function from step to learning rate, or a constant.
      optimizer: Subclass of mtf.optimize.Optimizer.
      save_checkpoints_steps: Steps between checkpoints.
      keep_checkpoint_max: Number of checkpoints kept; None keeps all.
      iterations_per_loop: Steps per loop on a TPU.
      autostack: Whether variables of one shape are stacked, which helps only TPUs.
      init_checkpoint: Checkpoint from which the variables start, or None.
      variable_filter: Regular expression of the variables to train, or a function that selects
        them; None trains all.
      skip_seen_data: Whether a resumed run skips the batches that it has seen. Otherwise it
        reads the data in a different order, which depends on the step at which it starts.
      seed: Seed of data, weights and noise.
      devices: Devices of this machine that form the mesh; None if --devices is not given.
      eval_every_steps: Steps between measurements of the validation loss; 0 for none.
      eval_batches: Number of batches of a measurement.
      keep_best: Whether the checkpoint with the lowest validation loss is kept.
      outer_batch_size: Copies of the experts, each for a part of the batch; 0 or None for a
        batch without this dimension.
      model_info_file: File that gets the sizes of the variables in training, or None.
      hierarchical_tiling_spec: The shape of each mesh axis on a TPU; None for Mesh TF's choice.
    """

    model_type: str
    task: str
    batch_size: int
    sequence_length: dict[str, int]
    train_steps: int
    mesh_shape: Any
    layout_rules: Any
    learning_rate_schedule: Callable | float
    optimizer: type
    save_checkpoints_steps: int
    keep_checkpoint_max: int | None
    iterations_per_loop: int
    autostack: bool
    init_checkpoint: str | None
    variable_filter: str | Callable | None
    skip_seen_data: bool
    seed: int
    devices: int | None = None
    eval_every_steps: int = 0
    eval_batches: int = 20
    keep_best: bool = False
    outer_batch_size: int | None = 1
    model_info_file: str | None = None
    hierarchical_tiling_spec: Sequence[tuple[str, Sequence[int] | None]] | None = None

    @property
    def layout(self) -> MeshLayout:
        """Mesh shape and layout rules as the project's own data."""
        return MeshLayout.parse(self.mesh_shape, self.layout_rules)

    @property
    def summary_steps(self) -> int:
        """Steps between two points of TensorBoard's curves, which have 100 points or more."""
        return max(1, min(100, self.train_steps // 100))

    @property
    def features(self) -> tuple[str, ...]:
        """The features of an example in training: an "lm" has no inputs."""
        return ("targets",) if self.model_type == "lm" else ("inputs", "targets")

    @property
    def tokens_per_batch(self) -> int:
        """Positions of all features in a step, padding included."""
        return self.batch_size * sum(self.sequence_length[name] for name in self.features)
