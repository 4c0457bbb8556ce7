"""The headers of gin/models/ and docs/models.md have the numbers of every model.

Both are compared here, so that each model is counted only once. The page also has every row of
the paper.
"""

from __future__ import annotations

import pytest
from model_files import MODELS, count_model, read_stated_size
from paper_rows import ROWS

from mtf_switch.config import gin_files
from mtf_switch.model import switch_transformer

PAGE = (gin_files.REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")
FEED_FORWARD = {("gelu", "linear"): "gated GELU", ("relu",): "ReLU"}


def format_line(name):
    """Returns the beginning of a model's line in the page's tables, from the model itself."""
    built = count_model(name).built
    layers = [stack.layer_stack.layers for stack in switch_transformer.stacks(built)]
    attention = next(layer for layer in layers[0] if hasattr(layer, "num_heads"))
    blocks = [sum(type(x).__name__ == "SelfAttention" for x in stack) for stack in layers]
    hidden = next(layer for layer in layers[0] if hasattr(layer, "hidden_size"))
    dense = [layer.activation for layer in layers[1] if hasattr(layer, "activation")]
    activation = dense[0] if dense else hidden.activations
    named = (activation,) if isinstance(activation, str) else tuple(activation)
    sparse = [
        switch_transformer.switch_layers(stack) for stack in switch_transformer.stacks(built)
    ]
    experts = {layer.num_experts for layers_ in sparse for layer in layers_}
    cost = count_model(name).cost
    cells = [
        f"`{name}`",
        f"{cost.parameters:,}",
        f"{cost.flops_per_sequence / 1e9:,.4g}",
        str(built.encoder.model_dim.size),
        f"{hidden.hidden_size} {FEED_FORWARD[named]}",
        f"{attention.num_heads} x {attention.key_value_size}",
        " + ".join(map(str, blocks)),
        "tied" if built.decoder.shared_embedding_and_softmax_weights else "own",
        f"{experts.pop()} in {' + '.join(str(len(x)) for x in sparse)}" if experts else "-",
    ]
    return f"| {' | '.join(cells)} |"


each_model = pytest.mark.parametrize("name", [path.stem for path in MODELS])


@each_model
def test_a_model_has_the_parameters_that_its_header_states(name):
    assert count_model(name).cost.parameters == read_stated_size(f"models/{name}.gin")[0]


@each_model
def test_a_model_is_in_the_page_with_what_it_has(name):
    assert format_line(name) in PAGE


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_paper_is_in_the_page_with_its_numbers(name):
    (found,) = (text for text in PAGE.splitlines() if f"| `paper/{name}.gin` |" in text)
    for number in ROWS[name].header:
        if number.startswith("-"):
            assert number in found
