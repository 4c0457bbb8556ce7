"""The CSV file of an exhibit: a line for each row and seed."""

from __future__ import annotations

import csv
import io

from mtf_switch.reproduction import student_columns
from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.exhibit import Exhibit, Row

_METRICS = (
    *("quality", "seconds", "examples_per_second", "tokens_per_second", "parameters"),
    *("flops_per_token", "dropped_training", "dropped_evaluation", "token_accuracy"),
)


def format_csv(exhibit: Exhibit, results: Results) -> str:
    """Formats a line for each row and seed, with all metrics.

    Compression and share of the gain are those of `student_columns`; a share is that of its
    seed.
    """
    found = [name for of_row in results.values() for r in of_row.values() for name in r.metrics]
    names = list(dict.fromkeys([*_METRICS, *found]))
    of_students = (
        ["compression", "share_of_gain"] if student_columns.list_heads(exhibit) else []
    )
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = ["row", "training", "seed", "diverged_at", *names, *of_students, "signature"]
    writer.writerow(heads)
    for row in exhibit.rows:
        for seed, result in sorted(results.get(row.name, {}).items()):
            diverged = "" if result.diverged_at is None else result.diverged_at
            values = [result.metrics.get(name, "") for name in names]
            if of_students:
                values += _of_student(exhibit, row, results, seed)
            writer.writerow(
                [row.name, result.training, seed, diverged, *values, result.signature]
            )
    return file.getvalue()


def _of_student(exhibit: Exhibit, row: Row, results: Results, seed: int) -> list[float | str]:
    if row.teacher is None:
        return ["", ""]
    compression = student_columns.compute_compression(row, results)
    share = student_columns.compute_share(exhibit, row, results, seed)
    return ["" if value is None else value for value in (compression, share)]
