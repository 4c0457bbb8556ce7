"""The public Switch Transformer checkpoints: their sizes, and known faults of the copies.

They were trained in Mesh TensorFlow, published as T5X's `switch_classic` models, and copied to
the Hugging Face hub as google/switch-*. docs/checkpoints.md lists them.
"""

from __future__ import annotations

import dataclasses

from mtf_switch.conversion.architecture import Architecture
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity


@dataclasses.dataclass(frozen=True)
class PublicCheckpoint:
    """A public checkpoint.

    Attributes:
      name: Name on the hub, without google/.
      d_model: Width of the model.
      d_ff: Hidden width of each feed-forward layer and expert.
      num_heads: Attention heads.
      blocks: Blocks in each of encoder and decoder.
      num_experts: Experts per sparse layer.
      sparse_every: In both stacks, every n-th block is sparse.
      gated: Whether feed-forward layers are gated (GEGLU).
      tied_logits: Whether the embedding computes the logits.
      steps: Training steps.
      capacity: Expert capacity, from T5X's gin files. T5X limits the group size, which is
        `ExpertCapacity.max_group_size`; the exact `group_size` stays unset.
      wrong_in_config: Keys of the hub's config.json that are known to be wrong.
      fault: A note for the user about the fault of the hub's copy.
    """

    name: str
    d_model: int
    d_ff: int
    num_heads: int
    blocks: int
    num_experts: int
    sparse_every: int
    gated: bool
    tied_logits: bool
    steps: int
    capacity: ExpertCapacity
    wrong_in_config: tuple[str, ...] = ()
    fault: str = ""

    @property
    def architecture(self) -> Architecture:
        """The architecture of its tensors."""
        every = self.sparse_every
        sparse = tuple(i % every == every - 1 for i in range(self.blocks))
        return Architecture(
            vocab_size=32128,
            d_model=self.d_model,
            d_kv=64,
            d_ff=self.d_ff,
            num_heads=self.num_heads,
            encoder=sparse,
            decoder=sparse,
            num_experts=self.num_experts,
            activations=("gelu", "linear") if self.gated else ("relu",),
            tied_logits=self.tied_logits,
            capacity=self.capacity,
        )


def _make_capacity(train: float, eval: float, minimum: int, max_group: int) -> ExpertCapacity:
    return ExpertCapacity(
        capacity_factor_train=train,
        capacity_factor_eval=eval,
        min_expert_capacity=minimum,
        group_size=None,
        max_group_size=max_group,
    )


def _make_base(num_experts: int) -> PublicCheckpoint:
    return PublicCheckpoint(
        name=f"switch-base-{num_experts}",
        d_model=768,
        d_ff=3072,
        num_heads=12,
        blocks=12,
        num_experts=num_experts,
        sparse_every=2,
        gated=False,
        tied_logits=True,
        steps=500_100 if num_experts == 8 else 550_000,
        capacity=_make_capacity(1.25, 2.0, 4, 8192),
    )


PUBLIC_CHECKPOINTS = (
    *(_make_base(num_experts) for num_experts in (8, 16, 32, 64, 128, 256)),
    PublicCheckpoint(
        name="switch-large-128",
        d_model=1024,
        d_ff=4096,
        num_heads=16,
        blocks=24,
        num_experts=128,
        sparse_every=2,
        gated=False,
        tied_logits=True,
        steps=483_100,
        capacity=_make_capacity(1.25, 2.0, 4, 4096),
    ),
    PublicCheckpoint(
        name="switch-xxl-128",
        d_model=4096,
        d_ff=10240,
        num_heads=64,
        blocks=24,
        num_experts=128,
        sparse_every=2,
        gated=True,
        tied_logits=False,
        steps=634_600,
        capacity=_make_capacity(1.25, 4.0, 2, 4096),
    ),
    PublicCheckpoint(
        name="switch-c-2048",
        d_model=2080,
        d_ff=6144,
        num_heads=30,
        blocks=15,
        num_experts=2048,
        sparse_every=1,
        gated=False,
        tied_logits=False,
        steps=611_800,
        capacity=_make_capacity(1.0, 2.0, 2, 2048),
        wrong_in_config=("num_decoder_layers", "sparse decoder blocks"),
        fault="The hub's config.json of switch-c-2048 is wrong about the decoder: it says 12 "
        "layers and decoder_sparse_step 0, but there are 15 layers, all sparse. The model "
        "follows the tensors.",
    ),
)


def find_public(architecture: Architecture) -> PublicCheckpoint | None:
    """Returns the public checkpoint with the same widths and number of experts, or None.

    Layers, gates and logits are not compared, because the copies have faults there.
    """
    compared = ("d_model", "d_ff", "num_heads", "num_experts")
    for public in PUBLIC_CHECKPOINTS:
        if all(getattr(public, name) == getattr(architecture, name) for name in compared):
            return public
    return None


def check_gates(path: str, architecture: Architecture) -> None:
    """Refuses a copy of a gated public model that has lost its gates.

    Raises:
      UserError: Names the complete checkpoint to convert instead.
    """
    public = find_public(architecture)
    if public and public.gated and not architecture.gated:
        raise UserError(
            f"{path} has the sizes of {public.name}, whose experts are gated (GEGLU: wi_0 and "
            "wi_1), but it has no gates. This is a known fault of the copy on the Hugging Face "
            "hub, which was converted without them. It is not the trained model, so it is not "
            f"converted. T5X's checkpoint of {public.name} is complete: convert that one, with "
            "--from=t5x."
        )
