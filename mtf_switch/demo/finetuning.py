"""`make demo-finetune`: the five rows of the paper's Table 4, at the size of a laptop.

The demo's two models are fine-tuned on the embedded downstream tasks, T5-tiny once and
Switch-tiny with four rates of dropout and expert dropout. Every checkpoint is evaluated, and
the peak of each task reported, as in the paper. What is in the report was measured by the run
that writes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence

from mtf_switch.demo import pretraining
from mtf_switch.errors import UserError

RECIPE = ("runs/finetune.gin", "runs/demo_finetune.gin")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of Table 4.

    Attributes:
      name: of its folder.
      model: of the demo.
      gin_file: with its dropout.
    """

    name: str
    model: str
    gin_file: str


ROWS = (
    Row("t5_d0.1", pretraining.DENSE, "paper/table_4/t5_dropout_0.1.gin"),
    Row("switch_d0.1", pretraining.SPARSE, "paper/table_4/switch_dropout_0.1.gin"),
    Row("switch_d0.2", pretraining.SPARSE, "paper/table_4/switch_dropout_0.2.gin"),
    Row("switch_d0.3", pretraining.SPARSE, "paper/table_4/switch_dropout_0.3.gin"),
    Row(
        "switch_d0.1_ed0.4",
        pretraining.SPARSE,
        "paper/table_4/switch_dropout_0.1_expert_0.4.gin",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fine-tunes, evaluates and reports; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        run(options.output_dir, options.demo_dir, options.steps, options.seed)
    except UserError as error:
        print(f"demo-finetune: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command continues.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mtf_switch.demo.finetuning", description=__doc__
    )
    parser.add_argument("--steps", type=int, help="of each row (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0, help="of data order and dropout")
    parser.add_argument(
        "--demo_dir",
        default="runs/demo",
        help="with the demo's models, which are trained if they are not there "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--output_dir", default="runs/demo_finetune", help="default: %(default)s"
    )
    return parser


def run(output_dir: str, demo_dir: str, steps: int | None, seed: int) -> None:
    """Fine-tunes every row, evaluates all checkpoints and reports.

    Args:
      output_dir: gets report.md, table4.png, results.json and one model_dir for each row. If
        it holds a part of the same runs, that part is kept.
      demo_dir: of the demo; it is run with its defaults if it was not.
      steps: of each row; None is the recipe's.
      seed: of all rows.

    Raises:
      UserError: if a folder holds other runs.
    """
    from mtf_switch.upstream import logs

    logs.show_errors_only()
    if not os.path.exists(os.path.join(demo_dir, "results.json")):
        print(f"{demo_dir} holds no demo yet: pre-training its two models first.")
        pretraining.run(demo_dir, pretraining.DEFAULT_MINUTES, seed=0)
    started = time.time()
    from mtf_switch.demo import finetuning_report

    results = {
        row.name: _finetune_and_evaluate(
            row,
            os.path.join(demo_dir, row.model),
            os.path.join(output_dir, row.name),
            steps,
            seed,
        )
        for row in ROWS
    }
    command = f"python -m mtf_switch.demo.finetuning --seed={seed}"
    command += "" if steps is None else f" --steps={steps}"
    took = time.time() - started
    with open(os.path.join(output_dir, "results.json"), "w", encoding="utf-8") as file:
        content = {name: [dataclasses.asdict(s) for s in of] for name, of in results.items()}
        json.dump(content, file, indent=2)
    text = finetuning_report.write(output_dir, results, command, took)
    print(text)
    print(f"\nReport: {output_dir}/report.md, plot: {output_dir}/table4.png ({took:.0f} s).")


def _finetune_and_evaluate(
    row: Row, pretrained_dir: str, model_dir: str, steps: int | None, seed: int
) -> list:
    from mtf_switch.downstream import checkpoint_scores
    from mtf_switch.runs import pretrained, training

    start = pretrained.find(pretrained_dir)
    params = [f"run_config.seed.value = {seed}"]
    if steps is not None:
        every = max(1, steps // 4)
        params += [
            f"utils.run.train_steps = {steps}",
            f"utils.run.save_checkpoints_steps = {every}",
        ]
    start.configure([*RECIPE, row.gin_file], params)
    training.train(model_dir)
    return checkpoint_scores.evaluate(model_dir, "validation", checkpoint_scores.ALL)


if __name__ == "__main__":
    sys.exit(main())
