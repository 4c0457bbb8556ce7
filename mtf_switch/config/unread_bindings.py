"""Refuses bindings that nothing reads, such as one of SwitchFFN for a model without experts.

Gin records each parameter that it supplies. The bindings that a model reads are therefore known
once it is constructed, and those that training reads are known once its graph is built.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin

from mtf_switch.config import gin_files, gin_statements
from mtf_switch.config.gin_statements import Binding
from mtf_switch.errors import UserError, join_first

# A model constructs the classes in these modules, ...
_OF_MODELS = (
    *("mtf_switch.layers", "mtf_switch.model"),
    *("mesh_tensorflow.transformer.transformer", "mesh_tensorflow.transformer.moe"),
)
# ... except these, which only its graph constructs, and it calls these functions.
_OF_GRAPHS = ("GatherEmbedding", "VocabEmbedding", "LeanAdafactor")
_CALLED_BY_MODELS = ("make_layer_stack", "make_bitransformer", "pairs_of_blocks")
# The graph of a training step reads all parameters of these modules, ...
_OF_TRAINING = (
    *(*_OF_MODELS, "mesh_tensorflow.optimize"),
    "mesh_tensorflow.transformer.learning_rate_schedules",
)
# ... except those of these functions, which only decoding calls.
_OF_DECODING = ("decode", "sample_autoregressive")
# Function that returns a parameter of another configurable -> that configurable and parameter.
_READ_FOR_OTHERS = {"activation_of_dense_layers": ("DenseReluDense", "activation")}

_ADD_EXPERTS = (
    "The model has no Switch layer: use one that has, such as models/switch_tiny.gin, or add "
    "--gin_file=sparsity/every_other_switch.gin and num_experts."
)
_PARTS_OF_SWITCH_LAYERS = (
    *("SwitchFFN", "SwitchRouter", "TopKRouter", "NoTokenLeftBehindRouter"),
    *("ExpertCapacity", "Exploration"),
)
_ADD_ATTENTION = "For a SwitchAttention layer, add --gin_file=sparsity/experts_attention.gin."


@dataclasses.dataclass(frozen=True)
class Given:
    """What `gin_config.parse` was given.

    Attributes:
      files: Paths of gin files.
      params: Bindings of the command line.
      saved: The saved configuration, a `gin_config.SavedText`.
    """

    files: Sequence[str] = ()
    params: Sequence[str] = ()
    saved: Any = None


_given = Given()


def remember(files: Sequence[str], gin_params: Sequence[str], saved: Any) -> None:
    """Records what the parsed configuration was made from."""
    global _given
    _given = Given(tuple(files), tuple(gin_params), saved)


def restore(given: Given) -> None:
    """Records again what `get_given` returned, with the configuration that it belongs to."""
    global _given
    _given = given


def get_given() -> Given:
    """Returns what the parsed configuration was made from."""
    return _given


def check_model() -> None:
    """Checks that a constructed model has read the user's bindings for its layers.

    A model must read every binding of the command line, and at least one binding of each gin
    file. If it does not read other bindings in a user's own file, this prints them. Saved
    configurations are not checked, because they contain defaults of layers that a model may
    lack.

    Raises:
      UserError: For the first binding or file without effect.
    """
    _check(_Reading(_parsed_bindings(), _is_read_by_model), says_rest=True)


def check_training() -> None:
    """Checks the same once the graph of a training step is built, which reads more bindings.

    Raises:
      UserError: For the first binding or file without effect.
    """
    _check(_Reading(_parsed_bindings(), _is_read_in_training), says_rest=False)


def _parsed_bindings() -> list[Binding]:
    return gin_statements.read_bindings(gin.config_str(max_line_length=1000))


def _check(reading: _Reading, says_rest: bool) -> None:
    for param in _given.params:
        for binding in gin_statements.read_bindings(param):
            if reading.is_unread(binding):
                raise UserError(
                    f"--gin_param={param!r} has no effect: {reading.explain(binding)}"
                )
    for path in filter(None, map(gin_files.find_file, _given.files)):
        text = path.read_text(encoding="utf-8", errors="replace")
        bindings = gin_statements.read_bindings(text, f"The gin file {path}")
        unread = [binding for binding in bindings if reading.is_unread(binding)]
        if not unread:
            continue
        reason = reading.explain(unread[0])
        if len(unread) == len(bindings) and not gin_statements.read_includes(text):
            raise UserError(f"The gin file {path} has no effect: {reason}")
        if says_rest and not gin_files.is_shipped(path):
            keys = join_first([binding.key for binding in unread])
            print(f"Without effect in {path}: {keys}. For the first: {reason}", file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """The state of reading the parsed configuration.

    Attributes:
      bindings: The parsed configuration.
      is_due: Returns, for the name of a configurable, whether all of its bindings should have
        been read by now.
    """

    bindings: Sequence[Binding]
    is_due: Callable[[str], bool]

    def is_unread(self, binding: Binding) -> bool:
        """Whether a binding has no effect, as far as this is known by now."""
        if not binding.parameter:
            return self._is_unread_macro(binding)
        readers = list(self._readers(binding))
        is_bound = any(b.parameter for b in self.bindings if _address(b) == _address(binding))
        return is_bound and self.is_due(binding.base_name) and binding.scope not in readers

    def _is_unread_macro(self, macro: Binding) -> bool:
        users = self._users(macro)
        was_read = (macro.name, "gin.macro") in gin.config._OPERATIVE_CONFIG
        return bool(users) and not was_read and all(map(self.is_unread, users))

    def _users(self, macro: Binding) -> list[Binding]:
        return [binding for binding in self.bindings if macro.name in binding.macros()]

    def _readers(self, binding: Binding) -> Iterator[str]:
        """Yields, for each call that read the parameter, the scope of the binding that it used.

        A call within "encoder" uses encoder/f.x if that is bound, and f.x otherwise.
        """
        bound = {
            b.scope
            for b in self.bindings
            if _address(dataclasses.replace(b, scope="")) == ("", *_address(binding)[1:])
        }
        wanted = (binding.base_name, binding.parameter)
        for (call, selector), values in gin.config._OPERATIVE_CONFIG.items():
            name = selector.split(".")[-1]
            if wanted in [(name, value) for value in values] + [_READ_FOR_OTHERS.get(name)]:
                parts = call.split("/") if call else []
                scopes = ["/".join(parts[:i]) for i in range(len(parts), -1, -1)]
                yield from [scope for scope in scopes if scope in bound][:1]

    def explain(self, binding: Binding) -> str:
        """Says why an unread binding has no effect, and what to use instead."""
        if not binding.parameter:
            user = self._users(binding)[0]
            return f"only {user.key} uses %{binding.name}, without effect. {self.explain(user)}"
        name = binding.base_name
        winners = [
            f"{scope}/{binding.name}.{binding.parameter}"
            for scope in sorted(set(self._readers(binding)))
            if scope.startswith(binding.scope)
        ]
        if winners:
            return f"{' and '.join(winners)} override it. Bind those, or remove them."
        made = {
            selector.split(".")[-1]
            for call, selector in gin.config._OPERATIVE_CONFIG
            if call.startswith(binding.scope)
        }
        where = f"the {binding.scope}" if binding.scope else "the model"
        start = f"nothing in {where} reads {name}.{binding.parameter}."
        if name == "SwitchAttention":
            return f"{start} {_ADD_ATTENTION}"
        if name in _PARTS_OF_SWITCH_LAYERS and not made & {"SwitchFFN", "SwitchAttention"}:
            return f"{start} {_ADD_EXPERTS.replace('The model', where.capitalize())}"
        if name in made:
            return f"{start} The caller of {name} sets its {binding.parameter}: remove it."
        return f"{start} It has no {name}: remove the binding, or add one."


def _address(binding: Binding) -> tuple[str, str, str]:
    return binding.scope, binding.base_name, binding.parameter


def _find_configurables(name: str) -> list[tuple[str, Any]]:
    """Returns (module, function or class) for each configurable with this name."""
    return [
        (getattr(configurable.wrapped, "__module__", None) or "", configurable.wrapped)
        for selector, configurable in gin.config._REGISTRY.items()
        if selector.split(".")[-1] == name
    ]


def _is_read_by_model(name: str) -> bool:
    if name in _CALLED_BY_MODELS:
        return True
    return name not in _OF_GRAPHS and any(
        module.startswith(_OF_MODELS) and isinstance(wrapped, type)
        for module, wrapped in _find_configurables(name)
    )


def _is_read_in_training(name: str) -> bool:
    return name not in _OF_DECODING and any(
        module.startswith(_OF_TRAINING) for module, _ in _find_configurables(name)
    )
