"""Divides messages into training and validation, the same way in all languages.

A message and its translations must be in one split, or a model could learn in one language
what it is asked in another. Messages that have a text in common, in any language, must be in
one split as well. So the split is decided for groups: the connected components of the graph in
which a message is joined to each of its texts.

Some short texts, such as "Name", join many messages to one large group. In validation it would
upset the share of that split, so a group with more than `MAX_GROUP_SHARE` of all messages is
always for training.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterable
from typing import Literal

VALIDATION_PERCENT = 10
MAX_GROUP_SHARE = 0.005


class MessageGroups:
    """Groups of messages that have texts in common: a union-find structure."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        self._messages: set[str] = set()

    def join(self, message: str, texts: Iterable[str]) -> None:
        """Adds a message, and joins it to the groups of its texts.

        Args:
          message: What identifies the message.
          texts: Keys of its texts in any language; see `message_text.make_key`.
        """
        node = f"message {message}"
        self._messages.add(node)
        root = self._find(node)
        for text in texts:
            other = self._find(f"text {text}")
            # The smaller name becomes the root, so groups do not depend on the order.
            root, child = min(root, other), max(root, other)
            self._parents[child] = root

    def find_splits(self) -> dict[str, Literal["train", "validation"]]:
        """Returns the split of each text's key, by the hash of its group."""
        sizes = collections.Counter(map(self._find, self._messages))
        limit = MAX_GROUP_SHARE * len(self._messages)
        splits: dict[str, Literal["train", "validation"]] = {
            group: "validation" if size <= max(limit, 1) and _is_held_out(group) else "train"
            for group, size in sizes.items()
        }
        prefix = "text "
        return {
            node[len(prefix) :]: splits[self._find(node)]
            for node in list(self._parents)
            if node.startswith(prefix)
        }

    def _find(self, node: str) -> str:
        parents = self._parents
        parents.setdefault(node, node)
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node


def _is_held_out(group: str) -> bool:
    digest = hashlib.sha256(group.encode("utf-8")).digest()
    return int.from_bytes(digest[-4:], "big") % 100 < VALIDATION_PERCENT
