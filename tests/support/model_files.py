"""Builds the models of the repository's gin files, and counts their parameters and FLOPs."""

from __future__ import annotations

import dataclasses
import functools
import re
import types

from mtf_switch.config import bound_settings, gin_config, gin_files
from mtf_switch.model import flops, switch_transformer

FILES = sorted(
    path.relative_to(gin_files.GIN_FOLDER) for path in gin_files.GIN_FOLDER.rglob("*.gin")
)
MODELS = [path for path in FILES if path.parent.name == "models"]
TINY = [path for path in MODELS if path.stem.endswith("tiny")]
FULL_SIZE = [path for path in MODELS if path not in TINY]
STATED = re.compile(r"^# Parameters: ([\d,]+) \(vocabulary of ([\d,]+)", re.MULTILINE)
# Lengths in tokens: those of the paper's pre-training, and of runs/embedded.gin.
LENGTHS, TINY_LENGTHS = {"inputs": 512, "targets": 114}, {"inputs": 32, "targets": 8}
# T5's 32,000 pieces and 100 sentinels.
T5_VOCABULARY_SIZE = 32100


@dataclasses.dataclass(frozen=True)
class Counted:
    """The model of gin files.

    Attributes:
      cost: Its parameters and FLOPs.
      built: The model, without a graph.
      lengths: {"inputs": L, "targets": L'}, in tokens.
    """

    cost: flops.Cost
    built: switch_transformer.transformer.Bitransformer
    lengths: dict[str, int]

    @property
    def router_flops(self) -> float:
        """The FLOPs of the routers in a forward pass, per sequence."""
        return sum(
            2 * stack.model_dim.size * layer.num_experts * length
            for stack, length in zip(
                switch_transformer.stacks(self.built), self.lengths.values()
            )
            for layer in switch_transformer.switch_layers(stack)
        )

    @property
    def flops_without_routers(self) -> float:
        """The FLOPs of everything else in a forward pass, per sequence."""
        return self.cost.flops_per_sequence - self.router_flops


def read_header(path):
    return (gin_files.GIN_FOLDER / path).read_text()


def read_stated_size(path):
    """Returns the numbers of parameters and ids that a header states.

    The vocabulary includes sentinels, which the header states apart from the pieces.
    """
    header = read_header(path)
    parameters, vocabulary = (int(n.replace(",", "")) for n in STATED.search(header).groups())
    return parameters, vocabulary + (100 if "100 sentinels" in header else 0)


@functools.cache
def count_model(name):
    """Counts a model of gin/models/, by its name, at the lengths of its family's run."""
    vocabulary = read_stated_size(f"models/{name}.gin")[1]
    lengths = TINY_LENGTHS if name.endswith("tiny") else LENGTHS
    return count_files([f"models/{name}.gin"], vocabulary, lengths)


def count_files(files, vocabulary=T5_VOCABULARY_SIZE, lengths=LENGTHS, params=()):
    """Counts the model of gin files, with further bindings."""
    gin_config.parse(
        files,
        [
            "MIXTURE_NAME = 'a_task'",
            "utils.run.batch_size = 64",
            f"utils.run.sequence_length = {lengths}",
            *params,
        ],
    )
    settings = bound_settings.read_settings()
    built = switch_transformer.build(settings, types.SimpleNamespace(vocab_size=vocabulary))
    return Counted(flops.compute_cost(built, settings), built, lengths)
