"""The models of the demos, and their measured results."""

from __future__ import annotations

import dataclasses

from mtf_switch.downstream.gains import EvaluationPoint
from mtf_switch.downstream.paper_tables import TABLE_4, Table4Row

# The two models, by the names of their gin files.
DENSE, SPARSE = "t5_tiny", "switch_tiny"


@dataclasses.dataclass(frozen=True)
class PretrainingResult:
    """The cost and the quality of one pre-trained model.

    Attributes:
      name: DENSE or SPARSE.
      parameters: Number of trainable parameters.
      flops_per_token: FLOPs of a forward pass per token, counted as in Table 9.
      tokens_per_second: Input and target tokens per second, from the median step time.
      points: Evaluations in the order of their steps.
      target_tokens: Number of target tokens in each evaluation.
      dropped: Fraction of dropped tokens in each training step; empty for a dense model.
      expert_load: Layer -> fraction of tokens per expert, in the last evaluation.
    """

    name: str
    parameters: int
    flops_per_token: float
    tokens_per_second: float
    points: list[EvaluationPoint]
    target_tokens: int
    dropped: list[float]
    expert_load: dict[str, list[float]]

    @property
    def final(self) -> EvaluationPoint:
        """The last evaluation."""
        return self.points[-1]


@dataclasses.dataclass(frozen=True)
class FinetunedModel:
    """A model that is fine-tuned as one row of Table 4.

    Attributes:
      name: Name of its folder.
      pretrained: The pre-trained model that it starts from, DENSE or SPARSE.
      gin_file: The gin file with the row's dropout rates.
      paper: The row of Table 4.
    """

    name: str
    pretrained: str
    gin_file: str
    paper: Table4Row


FINETUNED_MODELS = (
    FinetunedModel("t5_d0.1", DENSE, "paper/table_4/t5_dropout_0.1.gin", TABLE_4[0]),
    FinetunedModel("switch_d0.1", SPARSE, "paper/table_4/switch_dropout_0.1.gin", TABLE_4[1]),
    FinetunedModel("switch_d0.2", SPARSE, "paper/table_4/switch_dropout_0.2.gin", TABLE_4[2]),
    FinetunedModel("switch_d0.3", SPARSE, "paper/table_4/switch_dropout_0.3.gin", TABLE_4[3]),
    FinetunedModel(
        "switch_d0.1_ed0.4",
        SPARSE,
        "paper/table_4/switch_dropout_0.1_expert_0.4.gin",
        TABLE_4[4],
    ),
)
