"""Stands in for the program of `runner`: writes the files of a training and its evaluations.

As a program it needs no package. FAKE_TRAINING in the environment says how it ends:
"ok", "fail", "fail_late", which is after its last step, "wait", which never ends, "diverge",
"diverge_at_once", without a checkpoint, or "spoil", whose last evaluation is NaN.
"""

from __future__ import annotations

import json
import os
import sys
import time

STEPS = 4


def write_model_dir(model_dir: str, seed: int) -> None:
    """Writes the files of a run with four steps, of which two and four are evaluated."""
    os.makedirs(model_dir, exist_ok=True)

    def write(name: str, text: str) -> None:
        with open(os.path.join(model_dir, name), "w", encoding="utf-8") as file:
            file.write(text)

    write("config.gin", "MIXTURE_NAME = 'a_text'\n")
    write("text.json", "{}")
    rows = [
        f"{step},{0.1 * step:.4f},3.0,0.{step}0000,3.0,\r\n" for step in range(1, STEPS + 1)
    ]
    head = "step,seconds,loss,dropped_fraction,nats_per_token,validation\r\n"
    write("train_log.csv", head + "".join(rows))
    for step in (0, 2, 4):
        write_evaluation(model_dir, seed, step)


def write_evaluation(
    model_dir: str, seed: int, step: int, quality: float | None = None
) -> None:
    """Writes the file of an evaluation; None stands for a quality that grows with the step."""
    if quality is None:
        quality = -4.0 + 0.25 * step - 0.01 * seed
    evaluation = {
        "step": step,
        "task": "a_text",
        "split": "validation",
        "neg_log_perplexity": quality,
        "token_accuracy": 0.5,
        "target_tokens": 100,
        "dropped_fraction": 0.02,
        "limit": 40 * 32,
        "router": {"layer": {"entropy": 1.5}},
        "expert_load": {"layer": [0.25, 0.75]},
    }
    path = os.path.join(model_dir, f"eval-first1280-{step}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(evaluation, file)


def main() -> None:
    first, *others = json.loads(sys.argv[1])
    flags = dict(flag.split("=", 1) for flag in first[1:] if "=" in flag)
    how = os.environ.get("FAKE_TRAINING", "ok")
    model_dir = flags["--model_dir"]
    if not others and first[0] == "eval":
        # The evaluation of a run that has diverged.
        for step in (0, 2):
            write_evaluation(model_dir, 0, step)
        return
    if how == "fail":
        print("a line\rrun_switch.py: The disk is made of cheese.")
        sys.exit(1)
    if how == "wait":
        time.sleep(600)
    write_model_dir(model_dir, int(flags["--seed"]))
    if how == "fail_late":
        print("run_switch.py: The disk is made of cheese.")
        sys.exit(1)
    if how == "spoil":
        write_evaluation(model_dir, 0, STEPS, float("nan"))
    if how.startswith("diverge"):
        for name in os.listdir(model_dir):
            if name.startswith("eval"):
                os.remove(os.path.join(model_dir, name))
        if how == "diverge":
            open(os.path.join(model_dir, "model.ckpt-2.index"), "w").close()
        print("run_switch.py: The loss is nan at step 3. Lower the learning rate.")
        sys.exit(1)


if __name__ == "__main__":
    main()
