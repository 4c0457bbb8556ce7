"""Table 10: experts in attention (Appendix A)."""

from __future__ import annotations

from mtf_switch.reproduction.effects import Difference, Factor
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row, Training
from mtf_switch.reproduction.exhibits.trainings import EXPERTS, note_experts

_PLACE = "Appendix A, Table 10"
_SELECTIVE = "precision/selective.gin"
_TITLES = {
    "experts_ff": "Experts FF",
    "experts_attention": "Expert Attention",
    "experts_ff_and_attention": "Experts FF + Attention",
}


_METRICS = ("quality", "quality_at_16_hours", "examples_per_second")


def _row(layers: str, precision: str, *paper: float) -> Row:
    # All rows have experts in every other layer of both stacks, as in the paper.
    file = "every_other_switch" if layers == "experts_ff" else layers
    files = [f"sparsity/{file}.gin"] + ([_SELECTIVE] if precision == "bfloat16" else [])
    return Row(
        f"{layers}_{precision}",
        f"{_TITLES[layers]}, {precision}",
        Training(f"switch_8_{layers}_{precision}", (EXPERTS,), tuple(files)),
        f"paper/table_10/{layers}_{precision}.gin",
        dict(zip(_METRICS, paper)),
    )


def _ahead(first: str, second: str, text: str) -> Claim:
    return Claim(text, _PLACE, Difference(first, second))


_FF, _ATTENTION, _BOTH = (f"{name}_float32" for name in _TITLES)

TABLE_10 = Exhibit(
    "table_10",
    "Experts in attention",
    (
        _row("experts_ff", "float32", -1.548, -1.614, 1480),
        _row("experts_attention", "float32", -1.524, -1.606, 1330),
        _row("experts_attention", "bfloat16"),
        _row("experts_ff_and_attention", "float32", -1.513, -1.607, 1240),
        _row("experts_ff_and_attention", "bfloat16"),
    ),
    (
        Column("quality", "neg. log perplexity", 4),
        Column("quality_at_16_hours", "after 16 hours", is_measured=False),
        Column("quality_at_equal_time", "neg. log perplexity when the first row ends", 4),
        Column("examples_per_second", "examples/s", 0),
    ),
    (
        _ahead(_ATTENTION, _FF, "Expert Attention is ahead of Experts FF"),
        _ahead(_BOTH, _FF, "Experts FF + Attention is ahead of Experts FF"),
        _ahead(_BOTH, _ATTENTION, "Experts FF + Attention is ahead of Expert Attention"),
        Claim(
            "Expert Attention is slower than Experts FF",
            _PLACE,
            Factor(_FF, _ATTENTION, "examples_per_second"),
        ),
        _ahead(
            _ATTENTION,
            "experts_attention_bfloat16",
            "Expert Attention in bfloat16 is behind float32 (the paper: it diverges)",
        ),
        _ahead(
            _BOTH,
            "experts_ff_and_attention_bfloat16",
            "Experts FF + Attention in bfloat16 is behind float32 (the paper: it diverges)",
        ),
    ),
    baseline=_FF,
    plots=("quality_by_step", "difference_by_row"),
    notes=(
        note_experts(32),
        "The paper's bfloat16 is read as selective precision: see gin/paper/table_10.",
        "The paper's qualities are those after 100k steps and after 16 hours. Here, all rows "
        "have the same number of steps, and are compared at equal time when the first of them "
        "ends.",
    ),
)

EXHIBITS = (TABLE_10,)
