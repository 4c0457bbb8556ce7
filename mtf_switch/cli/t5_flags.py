"""Flags of t5_mesh_transformer: those that work here, and what replaces the others."""

from __future__ import annotations

import argparse
import os

from mtf_switch import whole_file
from mtf_switch.config import (
    gin_config,
    gin_files,
    gin_names,
    gin_statements,
    given_bindings,
    user_modules,
)
from mtf_switch.errors import UserError, name_program

# T5's flags without an equivalent of the same name -> what to use instead.
INSTEAD = {
    "--mode": "The command says what to do: train, finetune, eval, predict, score or convert.",
    "--use_model_api": "The command says what to do: train, finetune, eval, predict or score.",
    "--mixture_or_task": "Use --task=NAME.",
    "--pretrained_model_dir": "Use the command finetune with --init_checkpoint=FOLDER.",
    "--train_steps": "Use --steps=N.",
    "--batch_size": "Use --gin_param='utils.run.batch_size = 32'.",
    "--input_sequence_length": "Use --gin_param='utils.run.sequence_length = "
    '{"inputs": 512, "targets": 114}\'.',
    "--target_sequence_length": "Use --gin_param='utils.run.sequence_length = "
    '{"inputs": 512, "targets": 114}\'.',
    "--checkpoint_mode": "Use --checkpoint_steps=all of eval, or --checkpoint of predict "
    "and score.",
    "--eval_split": "Use --split=NAME of eval.",
    "--eval_summary_dir": "eval writes its results into the model_dir.",
    "--export_dir": "Use the command export.",
    "--beam_size": "Use --beams=N of predict.",
    "--keep_top_k": "Use --top_k=N of predict.",
    "--tpu_topology": "Use a file of gin/layouts/, such as --gin_file=layouts/expert_32.gin.",
    "--model_parallelism": "Use --gin_file=layouts/model_data.gin and "
    "--gin_param='mesh.model = 2'.",
    "--tpu_job_name": "Use --tpu, --gcp_project and --tpu_zone.",
    "--additional_deprecated_gin_references": "Remove the bindings of these names.",
    "--skip_all_gin_unknowns": "Remove the bindings of unknown names.",
}
# T5's modes, which its gin files bind -> the commands that may read such a file.
_COMMANDS = {
    "train": ("train", "finetune"),
    "eval": ("eval",),
    "perplexity_eval": ("eval",),
}
# Other modes -> the command line that does the same.
_OTHER_MODES = {
    "infer": "predict --model_dir=D --input_file=F --output_file=O [--checkpoint C]",
    "score_eval": "eval --model_dir=D",
    "score_from_strings": "score --model_dir=D --input_file=F --target_file=T --output_file=O",
    "score_from_dataset": "eval --model_dir=D --perplexity",
    "export": "export --model_dir=D --export_dir=E",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Adds --gin_location_prefix and --additional_task_cache_dirs."""
    group = parser.add_argument_group("as in t5_mesh_transformer (docs/from_t5.md)")
    group.add_argument(
        "--gin_location_prefix",
        action="append",
        default=[],
        metavar="D",
        help="folder in which gin files are searched as well; repeatable",
    )
    group.add_argument(
        "--additional_task_cache_dirs",
        metavar="D,E",
        help="folders with tasks that seqio's cache job has prepared",
    )
    add_module_import(group)


def add_module_import(parser: argparse._ActionsContainer) -> None:
    """Adds --module_import."""
    parser.add_argument(
        "--module_import",
        action="append",
        default=[],
        metavar="M",
        help="Python module to import first, such as my_tasks for my_tasks.py in the working "
        "folder; repeatable",
    )


def check_modules(options: argparse.Namespace) -> None:
    """Checks the modules of --module_import, and those that the model_dir's run needs."""
    for module in options.module_import:
        user_modules.check(module)
    given = {module.split(".")[0] for module in options.module_import}
    given |= gin_config.find_imported_packages(getattr(options, "gin_file", ()))
    for folder in _list_folders(options):
        path = os.path.join(folder, "config.gin")
        if not os.path.isfile(path):
            continue
        with open(path, encoding="utf-8", errors="replace") as file:
            needed = gin_statements.read_imported_modules(file.read(), path)
        others = {s: m for s, m in needed.items() if not m.startswith("__gin__")}
        gin_names.check_trusted(path, others, given)


def _list_folders(options: argparse.Namespace) -> list[str]:
    folders = [getattr(options, "model_dir", None), *getattr(options, "models", ())]
    return [folder for folder in folders if folder and not whole_file.is_address(folder)]


def check_prefixes(options: argparse.Namespace) -> None:
    """Checks the folders of --gin_location_prefix, and searches gin files in them, too."""
    for folder in options.gin_location_prefix:
        if not os.path.isdir(folder):
            raise UserError(f"--gin_location_prefix={folder}: there is no such folder.")
    gin_files.set_prefixes(options.gin_location_prefix)


def check_modes(options: argparse.Namespace) -> None:
    """Refuses T5's gin files for another mode than the command's.

    For the command eval, a file of perplexity_eval sets --perplexity, and the checkpoints that
    it names are those of --checkpoint_steps, unless the flags are given.
    """
    bindings = given_bindings.read(options.gin_file, options.gin_param)
    macros = {b.key: b.value for b in bindings if not b.parameter}
    values = {
        b.parameter: macros.get(getattr(b.value, "name", None), b.value)
        for b in bindings
        if b.base_name == "run" and b.parameter in ("mode", "eval_checkpoint_step")
    }
    mode = values.get("mode")
    if mode is None:
        return
    if options.command not in _COMMANDS.get(mode, (options.command,)) or mode in _OTHER_MODES:
        instead = _OTHER_MODES.get(mode) or f"{_COMMANDS[mode][0]} --model_dir=D"
        raise UserError(
            f"The gin files ask for T5's mode {mode!r}. Here that is the command "
            f"{instead.split()[0]}: {name_program()} {instead}. Remove the file."
        )
    if options.command == "eval":
        options.perplexity = options.perplexity or mode == "perplexity_eval"
        if options.checkpoint_steps is None and not options.follow:
            options.checkpoint_steps = _to_steps(values.get("eval_checkpoint_step"))


def _to_steps(value: object) -> str | None:
    """Converts T5's eval_checkpoint_step, a step, a list or "all", to --checkpoint_steps."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return None if value in (None, -1) else str(value)


def gin_bindings(options: argparse.Namespace) -> list[str]:
    """Returns the gin bindings of these flags."""
    folders = getattr(options, "additional_task_cache_dirs", None)
    return [f"task_cache.folders = {folders.split(',')!r}"] if folders else []
