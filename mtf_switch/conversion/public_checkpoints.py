"""The Switch checkpoints that the public has: their sizes, and the known faults of the copies.

They were trained in Mesh TensorFlow, published as T5X's `switch_classic` models, and copied
from there to the Hugging Face hub as google/switch-*. docs/checkpoints.md lists them.
"""

from __future__ import annotations

import dataclasses

from mtf_switch.conversion.architecture import Architecture
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity


@dataclasses.dataclass(frozen=True)
class PublicCheckpoint:
    """One of them.

    Attributes:
      name: on the hub, without google/.
      d_model, d_ff, num_heads, blocks, num_experts: its sizes; blocks of each stack.
      sparse_every: each how-manieth block is sparse, in both stacks.
      gated: whether its feed-forward layers are gated (GEGLU).
      tied_logits: whether the embedding gives the logits.
      steps: of its training.
      capacity: of its experts, from T5X's gin files; their group size is T5X's largest, and
        here an exact one, so it is left at one group per core.
      wrong_in_config: keys of the hub's config.json that are known to be wrong.
      fault: what else to know about the hub's copy.
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
        """What its tensors should make."""
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


def _base(num_experts: int) -> PublicCheckpoint:
    steps = 500_100 if num_experts == 8 else 550_000
    return PublicCheckpoint(
        f"switch-base-{num_experts}",
        *(768, 3072, 12, 12, num_experts, 2, False, True, steps),
        ExpertCapacity(1.25, 2.0, 4, max_group_size=8192),
    )


PUBLIC = (
    *(_base(num_experts) for num_experts in (8, 16, 32, 64, 128, 256)),
    PublicCheckpoint(
        "switch-large-128",
        *(1024, 4096, 16, 24, 128, 2, False, True, 483_100),
        ExpertCapacity(1.25, 2.0, 4, max_group_size=4096),
    ),
    PublicCheckpoint(
        "switch-xxl-128",
        *(4096, 10240, 64, 24, 128, 2, True, False, 634_600),
        ExpertCapacity(1.25, 4.0, 2, max_group_size=4096),
    ),
    PublicCheckpoint(
        "switch-c-2048",
        *(2080, 6144, 30, 15, 2048, 1, False, False, 611_800),
        ExpertCapacity(1.0, 2.0, 2, max_group_size=2048),
        wrong_in_config=("num_decoder_layers", "sparse decoder blocks"),
        fault="The hub's config.json of switch-c-2048 is wrong about the decoder: it says 12 "
        "layers and decoder_sparse_step 0, and there are 15, all sparse. The tensors were "
        "believed.",
    ),
)


def like(architecture: Architecture) -> PublicCheckpoint | None:
    """The public checkpoint of these widths and so many experts, None if there is none.

    Layers, gates and logits are not compared: those are what the copies got wrong.
    """
    for public in PUBLIC:
        same = ("d_model", "d_ff", "num_heads", "num_experts")
        if all(getattr(public, name) == getattr(architecture, name) for name in same):
            return public
    return None


def check_gates(path: str, architecture: Architecture) -> None:
    """Refuses a copy of a gated model whose gates were lost on the way.

    Raises:
      UserError: that says where the whole model is.
    """
    public = like(architecture)
    if public and public.gated and not architecture.gated:
        raise UserError(
            f"{path} has the sizes of {public.name}, whose experts are gated (GEGLU: wi_0 and "
            "wi_1), but holds no gates: the known fault of the copy on the Hugging Face hub, "
            "which was converted without them. What is left is not the trained model, so it is "
            f"not converted. T5X's checkpoint of {public.name} is whole: convert it with "
            "--from=t5x."
        )
