"""Gin text is read as data."""

from __future__ import annotations

import pytest

from mtf_switch.config.gin_statements import Macro, Reference, read_bindings, read_imports
from mtf_switch.errors import UserError

TEXT = """
import my_layers
from my_package import other as alias
include 'models/bi_v1.gin'

# A comment with %no_macro.
d_model = 16
encoder/d_ff = 32
utils.run.train_steps = 6
decoder/transformer.make_layer_stack.layers = [
    @transformer_layers.SelfAttention,  # with a comment
    @SwitchFFN,
]
SwitchFFN.router = @scope/SwitchRouter()
SwitchFFN.num_experts = %num_experts
run.text = "100 %of this = %is text"
run.lengths = {'inputs': %length, 'targets': (1, [%length, -2.5])}
text_files:
    files = None
    vocab_size = %size
"""


def test_bindings_are_read_in_order_with_their_parts() -> None:
    found = [(b.scope, b.name, b.parameter, b.value_text) for b in read_bindings(TEXT)]
    layers = "[@transformer_layers.SelfAttention, @SwitchFFN]"
    assert found == [
        ("", "d_model", "", "16"),
        ("encoder", "d_ff", "", "32"),
        ("", "utils.run", "train_steps", "6"),
        ("decoder", "transformer.make_layer_stack", "layers", layers),
        ("", "SwitchFFN", "router", "@scope/SwitchRouter()"),
        ("", "SwitchFFN", "num_experts", "%num_experts"),
        ("", "run", "text", "'100 %of this = %is text'"),
        ("", "run", "lengths", "{'inputs': %length, 'targets': (1, [%length, -2.5])}"),
        ("", "text_files", "files", "None"),
        ("", "text_files", "vocab_size", "%size"),
    ]


def test_a_binding_has_a_key_a_base_name_and_macros() -> None:
    bindings = {binding.key: binding for binding in read_bindings(TEXT)}
    assert list(bindings)[1:4] == [
        "encoder/d_ff",
        "utils.run.train_steps",
        "decoder/transformer.make_layer_stack.layers",
    ]
    assert bindings["utils.run.train_steps"].base_name == "run"
    assert bindings["d_model"].base_name == "d_model"
    assert bindings["SwitchFFN.router"].value == Reference("scope/SwitchRouter", is_call=True)
    assert bindings["SwitchFFN.num_experts"].value == Macro("num_experts")
    assert bindings["run.lengths"].macros() == {"length"}
    assert bindings["run.text"].macros() == set()


def test_bindings_as_text_parse_back_to_themselves() -> None:
    bindings = read_bindings(TEXT)
    assert read_bindings("\n".join(map(str, bindings))) == bindings


def test_imports_are_read_and_not_made() -> None:
    assert read_imports(TEXT) == ["import my_layers", "from my_package import other as alias"]


@pytest.mark.parametrize("text", ["d_model == 3", "d_model = [1,", "d_model 3", "a = %"])
@pytest.mark.parametrize("read", [read_bindings, read_imports])
def test_text_that_is_not_gin_is_refused_with_its_source(text: str, read) -> None:
    with pytest.raises(UserError, match=r"^The gin file x\.gin cannot be read as gin: "):
        read(text, source="The gin file x.gin")
