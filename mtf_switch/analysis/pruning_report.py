"""The result of pruning: which experts each layer keeps, and how much it used them."""

from __future__ import annotations

from collections.abc import Mapping

from mtf_switch.analysis.expert_use import CRITERIA, Criterion, LayerUse
from mtf_switch.report import Report


def make_report(
    uses: Mapping[str, LayerUse], kept: Mapping[str, tuple[int, ...]], criterion: Criterion
) -> Report:
    """Makes the report.

    Args:
      uses: Layer -> the use of its experts before pruning.
      kept: Layer -> the experts that it keeps.
      criterion: What they were ranked by.
    """
    width = max(map(len, uses))
    lines = [
        f"Experts kept, by {criterion}. Before pruning they had this share of the tokens:",
        f"{'layer':{width}s}  of   share   kept",
    ]
    data = {}
    for layer, use in uses.items():
        scores = {name: use.score(name).tolist() for name in CRITERIA}
        share = sum(scores["share"][expert] for expert in kept[layer])
        experts = " ".join(map(str, kept[layer]))
        lines.append(f"{layer:{width}s}  {len(use.hits):<3d}  {share:6.1%}  {experts}")
        data[layer] = {"kept": list(kept[layer]), "tokens": use.tokens, **scores}
    text = "\n".join(lines)
    return Report("prune", text, {"rank": criterion, "layers": data})
