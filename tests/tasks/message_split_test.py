"""Groups of messages with texts in common, and their splits."""

from __future__ import annotations

import random

from tasks.message_split import MAX_GROUP_SHARE, VALIDATION_PERCENT, MessageGroups


def split(messages: dict[str, list[str]]) -> dict[str, str]:
    groups = MessageGroups()
    for message, texts in messages.items():
        groups.join(message, texts)
    return groups.find_splits()


def independent(count: int) -> dict[str, list[str]]:
    return {f"message {i}": [f"english {i}", f"deutsch {i}"] for i in range(count)}


def test_all_texts_of_a_message_are_in_its_split() -> None:
    splits = split(independent(2000))
    assert all(splits[f"english {i}"] == splits[f"deutsch {i}"] for i in range(2000))
    held_out = sum(value == "validation" for value in splits.values()) / len(splits)
    # 2,000 draws with a probability of 10% have a standard deviation of 0.7%.
    assert abs(100 * held_out - VALIDATION_PERCENT) < 3


def test_messages_that_share_a_text_are_in_one_split() -> None:
    """A chain of shared texts in several languages; a search over the graph is the oracle."""
    draw = random.Random(0)
    messages = {
        f"m{i}": [f"t{draw.randrange(700)}", f"t{draw.randrange(700)}"] for i in range(300)
    }
    splits = split(messages)
    neighbours: dict[str, set[str]] = {}
    for texts in messages.values():
        for text in texts:
            neighbours.setdefault(text, set()).update(texts)
    for start in neighbours:
        reached, waiting = {start}, [start]
        while waiting:
            new = neighbours[waiting.pop()] - reached
            reached |= new
            waiting += new
        assert {splits[text] for text in reached} == {splits[start]}
    assert set(splits.values()) == {"train", "validation"}


def test_the_order_of_messages_does_not_matter() -> None:
    """Groups of four messages, the name of whose first member decides on their split."""
    messages = {f"m{i}": [f"t{i // 4}", f"u{i}"] for i in range(2000)}
    shuffled = list(messages.items())
    random.Random(1).shuffle(shuffled)
    splits = split(messages)
    assert set(splits.values()) == {"train", "validation"}
    assert split(dict(shuffled)) == splits


def test_a_large_group_is_for_training() -> None:
    """A group that its hash sends to validation, once small and once with many messages."""
    others = independent(1000)
    held_out = [text for text, value in split(others).items() if value == "validation"]
    text = held_out[0]
    many = {**others, **{f"z{i}": [text] for i in range(int(MAX_GROUP_SHARE * 1000) + 3)}}
    assert split(others)[text] == "validation"
    assert split(many)[text] == "train"
