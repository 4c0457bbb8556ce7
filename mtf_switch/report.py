"""The result of a command, as text, data and plots.

Matplotlib is imported only when a plot is written.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtf_switch import whole_file
from mtf_switch.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 120


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a command, in every form in which a user receives it.

    Attributes:
      name: Name of the JSON file, without its extension.
      text: The text that the command prints.
      data: The content of the JSON file.
      documents: Further text files: file name -> content.
      plots: PNG files: file name -> function that draws on an empty figure.
    """

    name: str
    text: str
    data: Any
    documents: Mapping[str, str] = dataclasses.field(default_factory=dict)
    plots: Mapping[str, Callable[[Figure], None]] = dataclasses.field(default_factory=dict)

    @property
    def file_names(self) -> list[str]:
        """The names of the files that `write` writes."""
        return [f"{self.name}.json", *self.documents, *self.plots]

    def to_json(self) -> str:
        """Returns `data` as indented JSON."""
        return json.dumps(self.data, indent=2)

    def write(self, folder: str) -> None:
        """Writes all files into a folder, which is created if needed.

        A killed command leaves each file either old or new, but never incomplete.

        Raises:
          UserError: If a file cannot be written.
        """
        texts = {f"{self.name}.json": self.to_json() + "\n", **self.documents}
        try:
            whole_file.make_folder(folder)
            for name, text in texts.items():
                whole_file.write_text(os.path.join(folder, name), text)
            for name, draw in self.plots.items():
                whole_file.write_bytes(os.path.join(folder, name), render_png(draw))
        except OSError as error:
            raise UserError(
                f"The folder {folder} cannot be written ({error.strerror}). Choose a folder "
                "that you may write to."
            ) from error


def format_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table in Markdown, with a line for each row.

    Args:
      heads: The heads of the columns.
      rows: The cells of each row, one for each column.
    """
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def check_is_new(folder: str, name: str) -> None:
    """Checks, before work starts, that a folder holds no report of a name yet.

    Raises:
      UserError: If it holds one. The message names the file.
    """
    path = os.path.join(folder, f"{name}.json")
    if whole_file.exists(path):
        raise UserError(f"{path} already exists. Choose another --output_dir, or remove it.")


def render_png(draw: Callable[[Figure], None]) -> bytes:
    """Returns a plot as the content of a PNG file.

    Args:
      draw: Draws on an empty figure, and may change its size.
    """
    # Figure alone needs no display and keeps no global state, unlike pyplot.
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_DOTS_PER_INCH, format="png")
    return buffer.getvalue()
