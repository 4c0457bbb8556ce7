"""Tables of the documentation that a benchmark makes from the results that it keeps."""

from __future__ import annotations

from pathlib import Path

from mtf_switch import whole_file

END = "<!-- end of table -->"


def replace(page: Path, source: str, table: str) -> None:
    """Replaces the table of a page.

    Args:
      page: The page. `<!-- table: SOURCE -->` is the line before the table, END the one after.
      source: The script that makes the table, such as "benchmarks/portable_table.py", or a
        benchmark of run_all.py, such as "step".
      table: The new table.

    Raises:
      ValueError: If the page has no place for this table.
    """
    start = f"<!-- table: {source} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, found_end, after = rest.partition(END)
    if not found or not found_end:
        raise ValueError(f"{page} has no line {start} with a line {END} after it")
    whole_file.write_text(page, f"{before}{start}\n{table}\n{END}{after}")
