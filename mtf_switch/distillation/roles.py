"""The role of a variable in a model, by which layers of two models line up.

The second feed-forward layer of an encoder is block_001/layer_001 in a dense model, and
block_000/layer_003 in a sparse model whose blocks are pairs. Names and indices of layers
therefore do not say which layers correspond.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

FEED_FORWARD = "feed-forward"
# Layer classes of Mesh TF and of this project -> their roles. Others have their own names.
_ROLES = {"DenseReluDense": FEED_FORWARD, "SwitchFFN": FEED_FORWARD}
_IN_LAYER = re.compile(r"(.*?)(block_(\d+)/layer_(\d+))/(.+)\Z")
# Part of a layer's variables that name no class: the norm before it.
_NORM = "rms_norm"
SPARSE_CLASS = "SwitchFFN"
ROUTER = "switch_gating"


@dataclasses.dataclass(frozen=True, order=True)
class Role:
    """What a variable is for.

    Attributes:
      stack: The name of its stack with a slash, such as "encoder/"; "" outside of layers.
      role: The role of its layer, such as "SelfAttention" or FEED_FORWARD.
      number: The place of its layer among those of this role in the stack, from 0.
      part: The variable within the layer, such as "q", "wi/kernel" or "rms_norm/scale"; outside
        of layers, its whole name.
    """

    stack: str
    role: str
    number: int
    part: str


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer: its scope within the model, and the name of its class."""

    scope: str
    layer_class: str


def find_layers(names: Iterable[str]) -> dict[tuple[str, str], list[Layer]]:
    """Finds the layers of a model from the names of its variables.

    Returns:
      (stack, role) -> the layers in their order.
    """
    classes: dict[tuple[str, int, int], Layer] = {}
    for name in names:
        found = _IN_LAYER.match(name)
        if found is None:
            continue
        stack, scope, block, layer, rest = found.groups()
        layer_class = rest.split("/")[0]
        if "/" in rest and layer_class != _NORM:
            key = (stack, int(block), int(layer))
            classes[key] = Layer(f"{stack}{scope}", layer_class)
    layers: dict[tuple[str, str], list[Layer]] = {}
    for (stack, _, _), layer in sorted(classes.items(), key=lambda item: item[0]):
        role = _ROLES.get(layer.layer_class, layer.layer_class)
        layers.setdefault((stack, role), []).append(layer)
    return layers


def assign(names: Iterable[str]) -> dict[str, Role]:
    """Assigns a role to each variable of a model, by name."""
    names = list(names)
    places = {
        layer.scope: (stack, role, number, layer.layer_class)
        for (stack, role), layers in find_layers(names).items()
        for number, layer in enumerate(layers)
    }
    roles = {}
    for name in names:
        found = _IN_LAYER.match(name)
        place = places.get(f"{found[1]}{found[2]}") if found else None
        if place is None:
            roles[name] = Role("", "", 0, name)
            continue
        stack, role, number, layer_class = place
        roles[name] = Role(stack, role, number, found[5].removeprefix(f"{layer_class}/"))
    return roles


def is_of_experts(name: str) -> bool:
    """Whether a variable belongs to the experts or the router of a feed-forward layer."""
    return f"/{SPARSE_CLASS}/" in name
