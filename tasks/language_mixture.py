"""Tasks of span corruption, one for each language, and a mixture that draws languages by size.

mC4 (`tasks.mc4`) and the catalogues of packages (`tasks.multilingual`) share this code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import seqio

from tasks import c4, language_sampling, text_to_text


def task_name(mixture: str, language: str) -> str:
    """Returns the name of a language's task: "mc4.ru_Latn" for "ru-Latn"."""
    return f"{mixture}.{language.replace('-', '_')}"


def rate_by_size(task: seqio.Task, alpha: float) -> float:
    """Returns the mixing rate of a language: n^alpha for n training documents.

    Args:
      task: The task of the language.
      alpha: 1 draws languages in proportion to their size, 0 draws them equally often.
    """
    return language_sampling.compute_rate(task.num_input_examples("train"), alpha)


def register(
    mixture: str,
    sources: Mapping[str, seqio.DataSource],
    output_features: dict[str, seqio.Feature],
    rate: Callable[[seqio.Task], float],
) -> None:
    """Registers the tasks of all languages and their mixture, and replaces earlier ones.

    Args:
      mixture: Name of the mixture, with which the names of its tasks begin.
      sources: Language -> examples with the field "text".
      output_features: The result of `text_to_text.make_features`.
      rate: Returns the mixing rate of a task.
    """
    for language, source in sources.items():
        c4.add_span_corruption_task(task_name(mixture, language), source, output_features)
    rates = [(task_name(mixture, language), rate) for language in sources]
    text_to_text.add_mixture(mixture, rates)
