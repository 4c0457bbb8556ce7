"""What a page says about the origins of its results: what differs from the present code."""

from __future__ import annotations

import collections

from mtf_switch.errors import join_first
from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.exhibit import Exhibit
from mtf_switch.reproduction.page_context import Context
from mtf_switch.reproduction.training_result import TrainingResult


def format_warnings(exhibit: Exhibit, results: Results, context: Context) -> str:
    """Says which results have another configuration, commit, lock or data.

    It also says how their speeds were measured.

    Returns:
      Sentences, a line each; "" if there is nothing to say.
    """
    origins, everything = collections.defaultdict(set), set()
    for row in exhibit.rows:
        for result in results.get(row.name, {}).values():
            name = f"{row.training.name}-{result.seed}"
            everything.add(name)
            for difference in _differences(result, context):
                origins[difference].add(name)
    unused = [
        f"**Not used:** {len(context.unused)} results have another gin configuration: "
        f"{join_first(context.unused, 9)}."
    ]
    others = [
        _format_origin(origin, names, everything) for origin, names in sorted(origins.items())
    ]
    # Without results, there is nothing that has a speed.
    speeds = [context.speeds] if context.speeds and everything else []
    data = _describe_mixed_data(exhibit, results)
    return "\n".join([*(unused if context.unused else []), *others, *data, *speeds])


def _describe_mixed_data(exhibit: Exhibit, results: Results) -> list[str]:
    """Says which results have another hash of the data than most; nothing if all are equal.

    A pruned model has no record of its text, so it is not compared.
    """
    names = collections.defaultdict(set)
    for row in exhibit.rows:
        for result in results.get(row.name, {}).values():
            if row.training.command != "prune":
                names[result.origin.data].add(f"{row.training.name}-{result.seed}")
    *others, most = sorted(names, key=lambda data: (len(names[data]), data)) or [""]
    return [
        f"**Mixed data:** {len(names[data])} results have the hash {data[:8]} of text and "
        f"vocabulary, and not {most[:8]}: {join_first(sorted(names[data]), 9)}."
        for data in others
    ]


def _format_origin(origin: str, names: set[str], everything: set[str]) -> str:
    """Says that `names` of the results, maybe all of them, have another origin."""
    if names == everything:
        return f"**Origin:** all results come from {origin}."
    return (
        f"**Mixed:** {len(names)} of {len(everything)} results from {origin}: "
        f"{join_first(sorted(names), 9)}."
    )


def _differences(result: TrainingResult, context: Context) -> list[str]:
    """Names what differs from the present code and packages."""
    found = []
    if result.origin.commit != context.commit:
        found.append(f"commit {result.origin.commit}, not {context.commit}")
    elif not result.origin.is_clean:
        found.append(f"changed files ({result.origin.commit})")
    if result.origin.lock != context.lock:
        found.append("another requirements.txt")
    return found
