"""Draws random command lines: working ones with a few changes, most of which are mistakes.

Commands and flags are those of the argument parsers, and parameters those that the project
declares, so new ones are drawn without a change here. `{here}` in an argument is a folder of
its own for each command line; `fuzzed_folder` makes it and says what it holds.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fuzzed_folder import FILES, TASK
from hypothesis import strategies as st
from tiny_run import PARAMS

from mtf_switch import value_rules
from mtf_switch.cli import main
from mtf_switch.config import gin_files, gin_names

_PARAMS = [f"--gin_param={name} = {value}" for name, value in PARAMS.items()]
_SHORT = [
    "--gin_param=text_files.vocab_size = 300",
    "--gin_param=utils.run.sequence_length = {'inputs': 32, 'targets': 16}",
    "--gin_param=utils.run.batch_size = 8",
]
_LINES = ["--input_file={here}/lines.txt", "--output_file={here}/out.txt"]
_MODELS = ("t5_tiny", "switch_tiny", "t5_base_tiny", "switch_base_tiny", "switch_xxl_tiny")
_TRAIN = ["--corpus={corpus}", "--model_dir={here}/new"]
# Command lines that work.
WORKING = [
    ["train", "--gin_file={here}/tiny.gin", *_TRAIN, *_PARAMS],
    ["train", "--model_dir={here}/run"],
    *(
        [
            "train",
            f"--gin_file=models/{name}.gin",
            "--gin_file=runs/embedded.gin",
            *_TRAIN,
            *_SHORT,
        ]
        for name in _MODELS
    ),
    [
        *("finetune", "--task=text_files", "--init_checkpoint={here}/run"),
        *("--model_dir={here}/new", "--gin_param=text_files.files = '{corpus}'", *_SHORT),
    ],
    [
        *("finetune", "--train_file={here}/examples.tsv", "--init_checkpoint={here}/run"),
        *("--validation_file={here}/examples.jsonl", "--metric=f1", "--model_dir={here}/new"),
        *_SHORT[1:],
    ],
    [
        *("distil", "--teacher={here}/run", "--student=models/t5_tiny.gin", "--init=none"),
        *(*_TRAIN, "--gin_file=runs/embedded.gin", *_SHORT),
    ],
    ["prune", "--model_dir={here}/run", "--experts=1", "--output_dir={here}/new"],
    ["export", "--model_dir={here}/run", "--export_dir={here}/new"],
    ["eval", "--model_dir={here}/run"],
    ["eval", "--model_dir={here}/run", "--test_file={here}/examples.tsv", "--metric=bleu"],
    ["experts", "--model_dir={here}/run"],
    ["predict", "--model_dir={here}/run", *_LINES],
    ["score", "--model_dir={here}/run", "--target_file={here}/lines.txt", *_LINES],
    ["compare", "--models", "{here}/run", "{here}/run", "--tasks", TASK],
    ["reproduce", "--list"],
    ["reproduce", "table_11", "--rows=argmax", "--seeds=1", "--results={here}/new"],
    ["tasks", "*glue*"],
    ["prepare", "--task=text_files", "--gin_param=text_files.files = '{corpus}'", *_SHORT[:1]],
    ["plan", "--gin_file=models/switch_base.gin", "--gin_file=layouts/expert_32.gin"],
    ["plan", "--gin_file=models/switch_base.gin", "--compare", "layouts/expert_32.gin"],
    ["compile", "--gin_file=models/switch_base.gin", "--gin_file=layouts/expert_32.gin"],
    [
        *("plan", "--compile", "--topology=v3:2x2", "--gin_file=models/switch_tiny.gin"),
        "--gin_file=layouts/expert_8.gin",
    ],
    *(
        ["convert", f"--from={source}", f"--to={target}", f"{{here}}/{source}", "{here}/new"]
        for source, target in (("hf", "mtf"), ("t5x", "hf"), ("mtf", "t5x"))
    ),
]
# A command that needs data sets.
REFUSED = ["superglue", "--model_dir={here}/run", "--output_dir={here}/new"]

_WHOLE = ("0", "-1", "1", "2", "3", "7", "8", "64", "1000000000", "1" + "0" * 30)
_NUMBERS = (*_WHOLE, "0.5", "-0.5", "1e-9", "2.5", "1e999")
_VALUES = (
    *(*_NUMBERS, "None", "True", "''", "'x'", "'eight'", "'1.25'", "[]", "{}", "()", "[None]"),
    *("[1, 2]", "{'inputs': 32, 'targets': 16}", "{'inputs': 0}", "{1: 'a'}", "[[[]]]"),
    *("('tokens_per_batch', 512)", "('tokens_per_batch', 0)", "('x', 1)", "'\\n'", "'\\0'"),
    *("@SwitchFFN", "@SwitchFFN()", "@SwitchRouter()", "@TopKRouter()", "@TopKRouter"),
    *("@ExpertCapacity()", "@nope", "@nope()", "@encoder/SwitchFFN()", "[@SwitchFFN]"),
    *("@LeanAdafactor", "@learning_rate_schedules.constant", "@mesh()", "@run", "@gin.macro"),
    *("%d_ff", "%num_experts", "%nope", "[%nope]", "'argmax'", "'gelu'", "['gelu', 'linear']"),
    *("float32", "'float32'", "b'x'", "1j", "...", "__file__", "lambda: 1", "1 +", "(", "'x"),
)
_MESHES = (
    *("'data:2'", "'data:2,model:2'", "'data:0'", "'data:-1'", "'data'", "':'", "'data:'"),
    *("'data:2,data:2'", "'batch:2'", "'data:99999999999'", "'data:2;model:2'", "'data:x'"),
    *("'batch:data'", "'batch:data,experts:data'", "'d_ff:data,d_model:data'", "'batch:foo'"),
    *("'experts:batch'", "'vocab:data'", "','", "'data:2,'", "[('data', 2)]", "[('data',)]"),
)
_MACROS = (
    *("d_model", "d_ff", "num_layers", "num_heads", "d_kv", "num_experts", "dropout_rate"),
    *("MIXTURE_NAME", "num_expert", "nope"),
)
_SCOPES = ("encoder/", "decoder/", "encodr/", "a/b/", "encoder/layer/", "/", "//")
_STATEMENTS = (
    *("", " ", "# nothing", "= 3", "num_experts", "num_experts =", "a = b = c", "x = (", "'"),
    *("include 'nope.gin'", "include '{here}/itself.gin'", "include 5", "import nope"),
    *("import os", "from os import path", "from __gin__ import dynamic_registration"),
    *("num_experts = %num_experts", "d_ff = %d_kv\nd_kv = %d_ff", "\x00 = 1", "é = 1"),
    *("a.b.c.d = 1", ".x = 1", "SwitchFFN:\n  num_experts = 4", "SwitchFFN:", "nope:\n  x = 1"),
    *("SwitchFFN.num_expert = 4", "SwichFFN.num_experts = 4", "SwitchFFN = 4", "x.y = @x.y()"),
    *("utils.run.mode = 'eval'", "tpu_mesh_shape.model_parallelism = 2", "mesh.data = 2"),
    "num_experts = @singleton()",
    "a/gin.singleton.constructor = @SwitchRouter\nSwitchFFN.router = @a/gin.singleton()",
)
_TEXTS = (
    *("", " ", "x", "0", "-1", "2", "all", "latest", "validation", "train", "test", "200,400"),
    *("text_files", "embedded_text", "nope", "super_glue_v102_proportional", "glue_cola_v002"),
    *("*", "[", "\x00", "é", "a" * 5000, "gs://no-such-bucket/x", "%d_ff", "'", "\n"),
)
_FLAG_NUMBERS = (*_NUMBERS, "", "x", "1.5", "nan", "inf", "-inf", "0x10", "1_000", "٣")


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A command line, and the differences of its folder from the usual one.

    Attributes:
      arguments: The arguments, with placeholders.
      contents: Path in the folder -> bytes of the file, or None for a folder in its place.
      builds_graph: Whether to go on until the graph of the first step is built.
    """

    arguments: list[str]
    contents: Mapping[str, bytes | None]
    builds_graph: bool = False


@functools.cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """Returns the parser of each command."""
    (subparsers,) = (
        action
        for action in main.make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return subparsers.choices


@functools.cache
def gin_parameters() -> list[str]:
    """Returns the declared parameters, the project's configurables, and some of T5's names."""
    import gin

    gin_names.register_all()
    declared = {f"{c}.{p}" for c, rules in value_rules.DECLARED.items() for p in rules}
    own = {
        f"{selector.split('.')[-1]}.{parameter}"
        for selector, configurable in gin.config._REGISTRY.items()
        if gin_names.is_of_project(getattr(configurable.wrapped, "__module__", None) or "")
        for parameter in gin.config._get_cached_arg_spec(configurable.wrapped).args
        if parameter not in ("self", "cls")
    }
    names = {
        "decode.": "Bitransformer.decode.",
        "constant.": "learning_rate_schedules.constant.",
    }
    full = {
        next((new + p[len(old) :] for old, new in names.items() if p.startswith(old)), p)
        for p in declared | own
    }
    return sorted(full) + [f"utils.{p}" for p in sorted(full) if p.startswith("run.")]


@st.composite
def bindings(draw: Any) -> str:
    """Draws a gin statement: a binding with a good or a bad value, or something odd."""
    kind = draw(st.sampled_from(["parameter"] * 4 + ["macro", "mesh", "statement"]))
    if kind == "statement":
        return draw(st.sampled_from(_STATEMENTS))
    if kind == "mesh":
        name = draw(st.sampled_from(["utils.run.mesh_shape", "utils.run.layout_rules"]))
        return f"{name} = {draw(st.sampled_from(_MESHES))}"
    names = _MACROS if kind == "macro" else gin_parameters()
    scope = draw(st.sampled_from([""] * 8 + list(_SCOPES))) if kind == "parameter" else ""
    return f"{scope}{draw(st.sampled_from(names))} = {draw(st.sampled_from(_VALUES))}"


_DAMAGES = ("cut", "bytes", "lines", "insert", "empty", "folder", "junk", "json", "json")
_JSON_VALUES = (
    *(None, True, -1, 0, 1.5, 1e30, 2**70, float("nan"), "", "x", "/etc/passwd", [], {}, [[]]),
    *([None], {"a": {}}, ["a", 1], "\0"),
)


@st.composite
def _changed_json(draw: Any, whole: bytes) -> bytes:
    """Puts another value somewhere into JSON, or JSON into a file of another format."""
    lines = whole.decode("utf-8", "replace").splitlines() or [""]
    try:
        lines, document = [], json.loads(whole)
    except ValueError:
        first, *lines = lines
        try:
            document = json.loads(first)
        except ValueError:
            document = None
    place, parents = document, []
    while isinstance(place, (dict, list)) and place and draw(st.integers(0, 4)):
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        parents.append((place, draw(st.sampled_from(keys))))
        place = place[parents[-1][1]]
    value = draw(st.sampled_from(_JSON_VALUES))
    if parents:
        parents[-1][0][parents[-1][1]] = value
    else:
        document = value
    return "\n".join([json.dumps(document), *lines, ""]).encode()


@st.composite
def damaged_bytes(draw: Any, whole: bytes) -> bytes | None:
    """Draws a damaged form of a file: cut, emptied, with other bytes or lines, or a folder."""
    kind = draw(st.sampled_from(_DAMAGES))
    at = draw(st.integers(0, max(len(whole) - 1, 0)))
    if kind == "cut":
        return whole[:at]
    if kind == "bytes":
        return whole[:at] + draw(st.binary(min_size=1, max_size=4)) + whole[at + 1 :]
    if kind == "insert":
        statement = draw(st.one_of(bindings(), st.sampled_from(_STATEMENTS)))
        return whole + statement.encode("utf-8", "replace") + b"\n"
    if kind == "json":
        return draw(_changed_json(whole))
    if kind == "lines":
        lines = whole.splitlines(keepends=True)
        return b"".join(line for line in lines if draw(st.integers(0, 9)) or not lines)
    return {"empty": b"", "folder": None, "junk": bytes(range(256))}[kind]


@st.composite
def _flag_value(draw: Any, action: argparse.Action, gin_file: str) -> list[str]:
    """Draws an argument for a flag from the parser's description of the flag."""
    paths = [
        f"{{here}}/{name}" for name in (*FILES, "run", "new", "folder", "nope/deep", "pipe")
    ]
    if action.dest == "gin_param":
        value = draw(bindings())
    elif action.dest in ("gin_file", "compare"):
        value = draw(st.sampled_from([gin_file, *_shipped_files(), *paths]))
    elif action.nargs == 0:
        return [action.option_strings[0]]
    elif action.choices:
        value = draw(st.sampled_from([*map(str, action.choices), "nope", ""]))
    elif (
        action.type is not None and action.type not in (str,) and "path" not in str(action.type)
    ):
        value = draw(st.sampled_from(_FLAG_NUMBERS))
    else:
        value = draw(st.sampled_from([*_TEXTS, *paths, *_WHOLE[:5]]))
    if not action.option_strings or action.nargs == "+":
        return [*action.option_strings[:1], value]
    return [f"{action.option_strings[0]}={value}"]


@functools.cache
def _shipped_files() -> list[str]:
    folder = gin_files.GIN_FOLDER
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.gin"))


@st.composite
def _changed_flag(draw: Any, arguments: Sequence[str]) -> list[str]:
    """Adds, replaces or removes one flag."""
    parser = parsers()[arguments[0]]
    actions = [a for a in parser._actions if a.dest != "help"]
    # Bindings allow the most kinds of mistakes.
    usual = [a for a in actions if a.dest == "gin_param"] * len(actions)
    action = draw(st.sampled_from([*actions, *usual]))
    given = [a for a in arguments if a.split("=")[0] in action.option_strings]
    if given and draw(st.integers(0, 3)) == 0:
        dropped = draw(st.sampled_from(given))
        return [a for a in arguments if a != dropped]
    return [*arguments, *draw(_flag_value(action, "{here}/mutated.gin"))]


@st.composite
def command_lines(
    draw: Any, trees: Mapping[str, Mapping[str, bytes]], builds_graphs: bool = False
) -> CommandLine:
    """Draws a command line and the contents of its folder.

    Args:
      draw: Hypothesis passes it.
      trees: Name -> the files of a folder, which may be damaged if the command line names it.
      builds_graphs: Whether the graph is built for some of them, which takes seconds.
    """
    arguments = draw(st.sampled_from([*WORKING, REFUSED]))
    known = [a for a in arguments if "=" not in a]
    contents: dict[str, bytes | None] = {}
    for _ in range(draw(st.integers(0, 3))):
        arguments = draw(_changed_flag(arguments))
    if any("mutated.gin" in a for a in arguments) or draw(st.integers(0, 9)) == 0:
        shipped = (gin_files.GIN_FOLDER / draw(st.sampled_from(_shipped_files()))).read_bytes()
        contents["mutated.gin"] = draw(damaged_bytes(shipped))
        if "convert" not in known:
            arguments = [*arguments, "--gin_file={here}/mutated.gin"]
    for prefix, files in trees.items():
        if f"{{here}}/{prefix}" in " ".join(arguments) and draw(st.integers(0, 2)) == 0:
            name = draw(st.sampled_from(sorted(files)))
            contents[f"{prefix}/{name}"] = draw(damaged_bytes(files[name]))
    # Hypothesis prefers the ends of a range.
    builds_graph = builds_graphs and draw(st.integers(0, 99)) in (31, 57)
    return CommandLine(list(arguments), contents, builds_graph)
