"""Figure 9 and Section 5: what a core holds and sends under each way to split a model."""

from __future__ import annotations

from mtf_switch.reproduction.effects import Difference
from mtf_switch.reproduction.exhibit import Claim, Column, Exhibit, Row, Training

_LAYOUTS = {
    "data": ("Data parallelism", "5.1"),
    "model": ("Model parallelism", "5.2"),
    "model_data": ("Model and data parallelism", "5.3"),
    "expert_data": ("Expert and data parallelism", "5.4"),
    "expert_model_data": ("Expert, model and data parallelism", "5.5"),
}
# All layouts have the same model and batch. The model's heads must be a multiple of 8.
_PARAMS = ("num_heads = 8", "utils.run.batch_size = ('tokens_per_batch', 65536)")


def _row(name: str, title: str) -> Row:
    layout = f"layouts/{name}.gin"
    training = Training(
        f"plan_{name}",
        gin_files=("models/switch_tiny.gin", layout),
        params=_PARAMS,
        command="plan",
    )
    return Row(name, title, training, "models/switch_base_8.gin", layout=layout)


def _claim(text: str, section: str, first: str, second: str, metric: str) -> Claim:
    sections = "Sections" if "and" in section else "Section"
    return Claim(text, f"{sections} {section}, Figure 9", Difference(first, second, metric))


FIGURE_9 = Exhibit(
    "figure_9",
    "Five ways to split a model over eight cores: what a core holds and sends in a step",
    tuple(_row(name, title) for name, (title, _) in _LAYOUTS.items()),
    (
        Column("weight_bytes", "weights", 0),
        Column("planned_bytes", "memory, planned", 0),
        Column("compiled_bytes", "memory, compiled", 0),
        Column("sent_bytes", "sent, planned", 0),
        Column("compiled_sent_bytes", "sent, compiled", 0),
        Column("forward_bytes", "sent in the forward pass", 0),
        Column("all_to_all_bytes", "sent in all-to-alls", 0),
    ),
    (
        _claim(
            "In the forward pass, model parallelism sends activations, and data parallelism "
            "sends less",
            *("5.1 and 5.2", "model", "data", "forward_bytes"),
        ),
        _claim(
            "With model parallelism, a core holds fewer weights than with data parallelism",
            *("5.2", "data", "model", "weight_bytes"),
        ),
        _claim(
            "With data parallelism as well, a core sends fewer bytes in the forward pass than "
            "with model parallelism alone: [B / n, d_model] in place of [B, d_model]",
            *("5.3", "model", "model_data", "forward_bytes"),
        ),
        _claim(
            "Expert parallelism sends more in all-to-alls than data parallelism",
            *("5.4", "expert_data", "data", "all_to_all_bytes"),
        ),
        _claim(
            "With expert parallelism, a core holds fewer weights than with data parallelism",
            *("5.4", "data", "expert_data", "weight_bytes"),
        ),
        _claim(
            "With all three, a core holds fewer weights than with experts and data",
            *("5.5", "expert_data", "expert_model_data", "weight_bytes"),
        ),
    ),
    baseline="data",
    plots=("memory_by_row", "sent_by_row"),
    notes=(
        "All numbers are bytes of one core in a training step of models/switch_tiny.gin with 8 "
        "heads and 65,536 input tokens on 8 TPU v3 cores. They are counted on the graph by "
        "`plan`; no TPU is needed. docs/scaling.md has full-size models.",
        "In Section 5.1, data parallelism sends nothing before the backward pass has ended. "
        "Here it sends less than a kilobyte in the forward pass: sums for loss and metrics.",
        "The compiled columns are those of the TPU's own compiler. They need `make "
        "install-compiler` before the rows are computed, and stay empty without it; "
        "docs/tpu_compiler.md compares both for other models.",
        "The figure shows which cores hold which part, and prints no numbers.",
    ),
    needs="make install-compiler (optional)",
)

EXHIBITS = (FIGURE_9,)
