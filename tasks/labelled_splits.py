"""The splits of the user's own labelled data, and what is remarkable about them.

Importing this module is cheap.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from mtf_switch.errors import UserError, join_first
from tasks import labelled_files
from tasks.document_split import document_digest
from tasks.labelled_files import Columns, LabelledExample

# Increase this whenever the same files would make different examples.
VERSION = 1
# Without a validation file, one example in this many is held out of training.
_HELD_OUT_OF = 10
# Targets count as labels if there are at most this many different ones ...
_MOST_LABELS = 100
# ... and if each occurs this often in training on average.
_USES_OF_A_LABEL = 5

Examples = Mapping[str, Sequence[LabelledExample]]


@dataclasses.dataclass(frozen=True)
class LabelledSplits:
    """The files of each split, and how they are read.

    Attributes:
      files: Split ("train", "validation" or "test") -> path of its file.
      columns: The columns that are read.
    """

    files: Mapping[str, str]
    columns: Columns

    @property
    def holds_out(self) -> bool:
        """Whether the validation split is a part of the training file."""
        return "train" in self.files and "validation" not in self.files

    @property
    def names(self) -> list[str]:
        """The names of the splits."""
        return [*self.files, *(["validation"] if self.holds_out else [])]

    def read(self) -> dict[str, list[LabelledExample]]:
        """Reads the examples of all splits.

        Raises:
          UserError: If a file is missing or damaged, or there are too few examples to hold some
            out.
        """
        found = {
            split: labelled_files.read(path, self.columns) for split, path in self.files.items()
        }
        return self._hold_out(found) if self.holds_out else found

    def _hold_out(
        self, found: dict[str, list[LabelledExample]]
    ) -> dict[str, list[LabelledExample]]:
        """Divides the training file by the hash of the inputs: equal inputs stay together."""
        parts: dict[str, list[LabelledExample]] = {"train": [], "validation": []}
        for example in found["train"]:
            digest = document_digest(example.inputs)
            is_held_out = int.from_bytes(digest[-4:], "big") % _HELD_OUT_OF == 0
            parts["validation" if is_held_out else "train"].append(example)
        for split, examples in parts.items():
            if not examples:
                raise UserError(
                    f"{self.files['train']} has {len(found['train'])} examples, of which the "
                    f"hash of the inputs puts none into the {split} split. Add more, or pass "
                    "--validation_file."
                )
        return {**found, **parts}

    def describe(self, examples: Examples) -> list[str]:
        """Describes in sentences what a user should know about the examples.

        These are the sizes, the held-out part, examples that training and evaluation share,
        and labels that training lacks.
        """
        return [
            ", ".join(f"{split} {len(part):,}" for split, part in examples.items())
            + " examples.",
            *self._describe_held_out(examples),
            *self._describe_shared(examples),
            *self._describe_new_labels(examples),
        ]

    def _describe_held_out(self, examples: Examples) -> list[str]:
        if not self.holds_out:
            return []
        count = len(examples["validation"])
        return [
            f"Without --validation_file, {count:,} of the {count + len(examples['train']):,} "
            f"examples of {self.files['train']}, chosen by the hash of their inputs, are held "
            "out of training as the validation split."
        ]

    def _describe_shared(self, examples: Examples) -> list[str]:
        trained = {example.inputs: example.line for example in examples.get("train", ())}
        messages = []
        for split, path in self.files.items():
            shared = [e for e in examples[split] if e.inputs in trained]
            if split == "train" or not shared:
                continue
            lines = [f"line {e.line} is line {trained[e.inputs]}" for e in shared]
            messages.append(
                f"{path}: {len(shared):,} of {len(examples[split]):,} inputs are also in "
                f"{self.files['train']} ({join_first(lines)}), so their scores say little "
                "about new inputs."
            )
        return messages

    def _describe_new_labels(self, examples: Examples) -> list[str]:
        trained = {r for example in examples.get("train", ()) for r in example.references}
        uses = len(examples.get("train", ())) / max(len(trained), 1)
        if len(trained) > _MOST_LABELS or uses < _USES_OF_A_LABEL:
            return []
        messages = []
        for split in examples:
            new = {}
            for example in examples[split]:
                if trained.isdisjoint(example.references):
                    new.setdefault(example.references[0], example.line)
            if new:
                path = self.files.get(split, self.files["train"])
                labels = [f"{label!r} (line {line})" for label, line in new.items()]
                messages.append(
                    f"{path}: {len(new):,} labels never occur in training, which has "
                    f"{len(trained):,} labels: {join_first(labels)}."
                )
        return messages


def make_splits(
    train: str | None, validation: str | None, test: str | None, columns: Columns
) -> LabelledSplits:
    """Makes the splits of the files that are not None."""
    files = {"train": train, "validation": validation, "test": test}
    given = {s: os.path.expanduser(path) for s, path in files.items() if path is not None}
    return LabelledSplits(given, columns)
