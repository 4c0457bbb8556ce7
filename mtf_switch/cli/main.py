"""Commands and flags. TensorFlow is imported only when a command runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mtf_switch.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: of the command line; those of the process by default.

    Returns:
      The exit code: 0, or 1 after a message on stderr for a mistake that a user can mend.
    """
    options = parser().parse_args(arguments)
    try:
        from mtf_switch.upstream import repairs

        repairs.quiet_logs()
        from mtf_switch.cli import commands

        getattr(commands, options.command)(options)
    except UserError as error:
        # Gin appends the chain of its calls to every message that passes through it.
        message = str(error).split("\n  In call to configurable")[0]
        print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = " The same command continues from the last checkpoint."
        print(f"Stopped.{goes_on if options.command == 'train' else ''}", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    root = argparse.ArgumentParser(
        description="Switch Transformers (arXiv 2101.03961) in Mesh TensorFlow.",
        epilog="Each command has its own --help.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_finetune(commands)
    _add_eval(commands)
    _add_predict(commands)
    _add_score(commands)
    _add_convert(commands)
    _add_compare(commands)
    _add_superglue(commands)
    _add_tasks(commands)
    _add_prepare(commands)
    _add_plan(commands)
    return root


def _add_train(commands) -> None:
    command = commands.add_parser(
        "train",
        help="pre-train or fine-tune on a task; a second call continues",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "example:\n  run_switch.py train --gin_file=models/switch_tiny.gin \\\n"
            "    --gin_file=runs/embedded.gin --model_dir=runs/switch_tiny"
        ),
    )
    _add_model_dir(command, "gets checkpoints and summaries; a second call continues from it")
    _add_gin(command)
    command.add_argument(
        "--corpus",
        metavar="GLOB",
        help="train on your own text: 'path/*.txt', utf-8, quoted",
    )
    command.add_argument(
        "--task",
        help="task or mixture of seqio's registry (default: what the gin files say)",
    )
    _add_training(command)
    _add_data(command)
    _add_machine(command)


def _add_training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--steps", type=_positive, help="train up to this step")
    command.add_argument("--seed", type=int, help="of the data's order, the weights and noise")


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data_dir",
        metavar="D",
        help="with TFDS's data (default: ~/tensorflow_datasets); see the command prepare",
    )
    command.add_argument(
        "--vocabulary",
        metavar="V",
        help="of the task: a SentencePiece model, or embedded_text (default: T5's, or that of "
        "the checkpoint)",
    )


def _add_finetune(commands) -> None:
    command = commands.add_parser(
        "finetune",
        help="fine-tune a pre-trained checkpoint on a task, with the paper's recipe",
        description="Takes the model and the vocabulary from the checkpoint's folder, and puts "
        "gin/runs/finetune.gin and your gin files on top. A second call continues.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "example:\n  run_switch.py finetune --task=super_glue_v102_proportional \\\n"
            "    --init_checkpoint=runs/base/model.ckpt-550000 --model_dir=runs/tuned \\\n"
            "    --data_dir=tfds --gin_file=sequence_lengths/super_glue_v102_proportional.gin"
        ),
    )
    command.add_argument("--task", required=True, help="task or mixture; see the command tasks")
    command.add_argument(
        "--init_checkpoint",
        required=True,
        metavar="C",
        help="to start from: runs/base/model.ckpt-1000, a model_dir (its latest), or gs://...",
    )
    _add_model_dir(command, "gets checkpoints and summaries; a second call continues from it")
    _add_gin(command)
    _add_training(command)
    _add_data(command)
    _add_machine(command)


def _add_eval(commands) -> None:
    command = commands.add_parser(
        "eval",
        help="a task's metrics for any checkpoints; or negative log perplexity and routers",
        description="Decodes and scores a task that has metrics (GLUE, SQuAD, ...), and finds "
        "the peak over checkpoints. For other tasks: the negative log perplexity of the latest "
        "checkpoint, and what its routers did.",
    )
    _add_model_dir(command, "of a training run; gets SPLIT_eval/, or eval.json")
    command.add_argument("--task", help="another task than the one it was trained on")
    command.add_argument("--split", default="validation", help="default: %(default)s")
    command.add_argument(
        "--eval_batches",
        type=_positive,
        metavar="N",
        help="at most N batches, of each task if it has metrics (default: all)",
    )
    command.add_argument(
        "--checkpoint_steps",
        metavar="S",
        help="which checkpoints to score: all, latest (the default), or 200,400",
    )
    command.add_argument(
        "--follow",
        action="store_true",
        help="score every checkpoint, and those that training writes meanwhile, to its end",
    )
    command.add_argument(
        "--perplexity",
        action="store_true",
        help="negative log perplexity and routers, for a task with metrics, too",
    )
    _add_data(command)
    _add_gin(command)
    _add_machine(command)


def _add_predict(commands) -> None:
    command = commands.add_parser(
        "predict", help="decode targets for a file of inputs, one a line"
    )
    _add_model_dir(command, "of a training run")
    command.add_argument("--input_file", required=True, help="one input a line, utf-8")
    command.add_argument("--output_file", required=True, help="gets one prediction a line")
    command.add_argument(
        "--beams", type=_positive, default=1, help="beam search with N > 1 beams"
    )
    command.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0 decodes greedily; above it samples (default: %(default)s)",
    )
    command.add_argument(
        "--top_k",
        type=_positive,
        metavar="K",
        help="sample from the K most likely tokens only",
    )
    command.add_argument(
        "--max_length", type=_positive, metavar="N", help="tokens to decode at most"
    )
    _add_gin(command)
    _add_machine(command)


def _add_score(commands) -> None:
    command = commands.add_parser(
        "score", help="log-likelihood of given targets, in nats, one a line"
    )
    _add_model_dir(command, "of a training run")
    command.add_argument("--input_file", required=True, help="one input a line, utf-8")
    command.add_argument("--target_file", required=True, help="its target, line by line")
    command.add_argument("--output_file", required=True, help="gets one log-likelihood a line")
    _add_gin(command)
    _add_machine(command)


def _add_convert(commands) -> None:
    command = commands.add_parser(
        "convert",
        help="a checkpoint of transformers, T5X or Mesh TensorFlow into one of another",
        description="Converts T5 and Switch Transformers, a tensor at a time. hf is a folder\n"
        "of transformers (config.json, safetensors), t5x a checkpoint folder of T5X, mtf a\n"
        "model_dir of Mesh TensorFlow. What is written for mtf is ready for eval, predict,\n"
        "score and train. See docs/checkpoints.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "examples:\n"
            "  run_switch.py convert --from=hf --to=mtf downloads/switch-base-8 runs/base_8\n"
            "  run_switch.py convert --from=mtf --to=hf runs/base_8 exported\n"
            "  run_switch.py convert --from=t5x --to=mtf --upcycle --experts=8 \\\n"
            "    downloads/t5_1_1_base/checkpoint_1000000 runs/upcycled"
        ),
    )
    formats = ("hf", "t5x", "mtf")
    command.add_argument("--from", required=True, choices=formats, dest="source_format")
    command.add_argument("--to", required=True, choices=formats)
    command.add_argument("source", metavar="SRC", help="the checkpoint")
    command.add_argument("target", metavar="DST", help="a folder that is not there yet")
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of all tensors (default: that of SRC, and float32 for mtf)",
    )
    group = command.add_argument_group("dense to sparse")
    group.add_argument(
        "--upcycle",
        action="store_true",
        help="make a dense T5 a Switch Transformer: experts are copies of its feed-forward "
        "layers, routers are random",
    )
    group.add_argument("--experts", type=_positive, metavar="N", help="of each sparse layer")
    group.add_argument(
        "--expert_every",
        type=_positive,
        metavar="K",
        help="each K-th block becomes sparse (default: 2, as in the paper)",
    )
    group.add_argument("--seed", type=int, help="of the routers (default: 0)")
    _add_gin(command)


def _add_compare(commands) -> None:
    command = commands.add_parser(
        "compare",
        help="models on the same tasks, with intervals, beside the paper's Table 5",
        description="Reads what eval wrote for each model, takes each at its best checkpoint, "
        "and draws the examples anew 1,000 times for 95%% intervals.",
    )
    command.add_argument(
        "--models",
        nargs="+",
        required=True,
        metavar="D",
        help="model_dirs; the first is the baseline, such as the dense T5",
    )
    command.add_argument(
        "--tasks", nargs="+", required=True, metavar="T", help="tasks or mixtures"
    )
    command.add_argument("--split", default="validation", help="default: %(default)s")
    command.add_argument(
        "--paper",
        choices=("Base", "Large"),
        default="Base",
        help="whose rows of Table 5 stand beside (default: %(default)s)",
    )
    command.add_argument("--output_dir", metavar="O", help="gets compare.md and compare.json")


def _add_superglue(commands) -> None:
    command = commands.add_parser(
        "superglue",
        help="files of answers to SuperGLUE's test sets, for its server",
    )
    _add_model_dir(command, "of a run fine-tuned on SuperGLUE")
    command.add_argument(
        "--output_dir", required=True, metavar="O", help="gets ten .jsonl files"
    )
    command.add_argument(
        "--step", type=_positive, metavar="S", help="of the checkpoint (default: the latest)"
    )
    _add_data(command)
    _add_gin(command)
    _add_machine(command)


def _add_tasks(commands) -> None:
    command = commands.add_parser(
        "tasks", help="every task: sizes, metrics, splits, and whether its data is here"
    )
    command.add_argument(
        "pattern", nargs="?", default="*", help="of names, in quotes: '*glue*' (default: all)"
    )
    _add_data(command)
    _add_gin(command)


def _add_prepare(commands) -> None:
    command = commands.add_parser(
        "prepare", help="download and prepare the data of a task, with TFDS"
    )
    command.add_argument("--task", required=True, help="task or mixture; see the command tasks")
    _add_data(command)
    _add_gin(command)


def _add_plan(commands) -> None:
    command = commands.add_parser(
        "plan",
        help="whether a model fits a TPU pod, what it communicates, and how long a step takes",
        description="Lowers the training graph of a model for the cores of a layout, without a "
        "TPU, and counts memory, exchanges between cores and arithmetic on it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "examples:\n  run_switch.py plan --gin_file=models/switch_c.gin \\\n"
            "    --gin_file=layouts/expert_2048.gin\n"
            "  run_switch.py plan --gin_file=models/switch_xxl.gin \\\n"
            "    --compare layouts/expert_model_512.gin layouts/expert_model_2048.gin"
        ),
    )
    _add_gin(command)
    command.add_argument(
        "--batch_tokens",
        type=_positive,
        metavar="N",
        help="tokens of input in a step (default: 2^20, as in the paper)",
    )
    command.add_argument(
        "--vocab_size",
        type=_positive,
        metavar="N",
        help="pieces and sentinels (default: 32100, T5's)",
    )
    command.add_argument(
        "--compare",
        nargs="+",
        metavar="FILE",
        help="plan the model under each of these layouts, and recommend one",
    )
    command.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table"
    )
    command.add_argument(
        "--output_dir", metavar="D", help="gets the JSON, the text and a plot of it as well"
    )


def _add_model_dir(command: argparse.ArgumentParser, meaning: str) -> None:
    command.add_argument("--model_dir", required=True, metavar="D", help=meaning)


def _add_gin(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="repeatable, later ones win; found from here, from gin/, or in T5's gin folder",
    )
    command.add_argument(
        "--gin_param",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="repeatable; wins over files: --gin_param='num_experts = 16'",
    )


def _add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--devices",
        type=_positive,
        metavar="N",
        help="run on N devices of this machine as one mesh: its GPUs, or N parts of its "
        "processor; without a file of gin/layouts/, batch and experts are split over them",
    )
    group = command.add_argument_group("TPU, as in t5_mesh_transformer")
    group.add_argument("--tpu", help="name or address of a Cloud TPU; without it: this machine")
    group.add_argument("--gcp_project", help="project of the Cloud TPU")
    group.add_argument("--tpu_zone", help="zone of the Cloud TPU")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value
