"""What each command of the command line does, from its options to its last line."""

from __future__ import annotations

import argparse
import os
from typing import Any

from tqdm import tqdm

import tasks as registry
from mtf_switch.config import gin_text, run_settings, saved_config
from mtf_switch.conversion import convert as conversion
from mtf_switch.conversion.upcycling import Upcycling
from mtf_switch.downstream import checkpoint_scores, task_metrics
from mtf_switch.errors import UserError
from mtf_switch.runs import data, evaluation, prediction, pretrained, training

FINETUNE = "runs/finetune.gin"


def train(options: argparse.Namespace) -> None:
    """`run_switch.py train`."""
    corpus = []
    if options.corpus is not None:
        corpus = [f"text_files.files = {options.corpus!r}", "MIXTURE_NAME = 'text_files'"]
    params = corpus + _run_params(options)
    if options.gin_file:
        gin_text.parse(options.gin_file, params)
    elif os.path.isfile(os.path.join(options.model_dir, "config.gin")):
        saved_config.load(options.model_dir, [], params)
    else:
        raise UserError(
            "No model is named: pass --gin_file, such as --gin_file=models/switch_tiny.gin "
            "--gin_file=runs/embedded.gin."
        )
    _train(options)


def finetune(options: argparse.Namespace) -> None:
    """`run_switch.py finetune`."""
    start = pretrained.find(options.init_checkpoint)
    if not start.config and not options.gin_file:
        raise UserError(
            f"Beside {start.checkpoint} there is no config.gin (or T5's operative_config.gin) "
            "that says which model it is. Name it: --gin_file=models/t5_base.gin."
        )
    # A model comes before the recipe, which sets its dropout.
    models = [file for file in options.gin_file if os.path.dirname(file).endswith("models")]
    others = [file for file in options.gin_file if file not in models]
    start.configure([*models, FINETUNE, *others], _run_params(options))
    _train(options)


def _run_params(options: argparse.Namespace) -> list[str]:
    """The bindings of a training run's flags."""
    params = _params(options)
    if options.steps is not None:
        params.append(f"utils.run.train_steps = {options.steps}")
    if options.seed is not None:
        params.append(f"run_config.seed.value = {options.seed}")
    return params


def _train(options: argparse.Namespace) -> None:
    step = training.train(options.model_dir, _cluster(options))
    print(
        f"{options.model_dir} is at step {step}. Next: run_switch.py eval "
        f"--model_dir={options.model_dir}"
    )


def eval(options: argparse.Namespace) -> None:
    """`run_switch.py eval`."""
    saved_config.load(options.model_dir, options.gin_file, _params(options))
    if _wants_metrics(options):
        _eval_metrics(options)
        return
    result = evaluation.evaluate(
        options.model_dir, options.split, options.eval_batches, _cluster(options)
    )
    evaluation.write(options.model_dir, result)
    print(evaluation.table(result))


def _wants_metrics(options: argparse.Namespace) -> bool:
    """Whether answers are decoded: if the task has metrics, or checkpoints are asked for."""
    asked = options.checkpoint_steps is not None or options.follow
    if options.perplexity:
        if asked:
            raise UserError(
                "--perplexity is of the latest checkpoint: leave --checkpoint_steps and "
                "--follow away."
            )
        return False
    task = run_settings.settings().task
    data.prepare(task)
    return asked or bool(task_metrics.tasks_with_metrics(task))


def _eval_metrics(options: argparse.Namespace) -> None:
    steps = checkpoint_scores.parse_steps(options.checkpoint_steps or checkpoint_scores.LATEST)
    settings = run_settings.settings()
    limit = options.eval_batches and options.eval_batches * settings.batch_size
    scores = checkpoint_scores.evaluate(
        options.model_dir, options.split, steps, limit, options.follow, _cluster(options)
    )
    print(checkpoint_scores.table(scores, options.split))
    file = checkpoint_scores.results_file(
        options.model_dir, options.split, settings.task, limit
    )
    print(f"Scores: {file}, .csv and .png; answers: the .jsonl files beside it.")


def predict(options: argparse.Namespace) -> None:
    """`run_switch.py predict`."""
    params = _params(options)
    params.append(f"Bitransformer.decode.beam_size = {options.beams}")
    params.append(f"Bitransformer.decode.temperature = {options.temperature}")
    if options.top_k is not None:
        params.append(f"Bitransformer.decode.sampling_keep_top_k = {options.top_k}")
    if options.max_length is not None:
        params.append(f"Bitransformer.decode.max_decode_length = {options.max_length}")
    if options.beams > 1 and options.temperature:
        raise UserError(
            "Beam search and sampling exclude each other: give --beams or --temperature."
        )
    saved_config.load(options.model_dir, options.gin_file, params)
    prediction.predict(
        options.model_dir, options.input_file, options.output_file, _cluster(options)
    )


def score(options: argparse.Namespace) -> None:
    """`run_switch.py score`."""
    saved_config.load(options.model_dir, options.gin_file, _params(options))
    prediction.score(
        options.model_dir,
        options.input_file,
        options.target_file,
        options.output_file,
        _cluster(options),
    )


def convert(options: argparse.Namespace) -> None:
    """`run_switch.py convert`."""
    upcycling = None
    if options.upcycle:
        if not options.experts:
            raise UserError("--upcycle needs to know how many: add --experts=8, say.")
        upcycling = Upcycling(options.experts, options.expert_every or 2, options.seed or 0)
    elif options.experts or options.expert_every or options.seed is not None:
        raise UserError("--experts, --expert_every and --seed go with --upcycle.")
    if options.to != "mtf" and (options.gin_file or options.gin_param):
        raise UserError(f"--gin_file and --gin_param go with --to=mtf, not {options.to}.")
    converted = conversion.convert_checkpoint(
        conversion.ConversionRequest(
            source_format=options.source_format,
            target_format=options.to,
            source=options.source,
            target=options.target,
            dtype=options.dtype,
            upcycling=upcycling,
            gin_files=options.gin_file,
            gin_params=options.gin_param,
        )
    )
    print(conversion.format_result(converted, options.target))


def compare(options: argparse.Namespace) -> None:
    """`run_switch.py compare`."""
    from mtf_switch.downstream import comparison

    saved_config.load(options.models[0])
    for task in options.tasks:
        data.check_known(task)
    rows = comparison.compare(options.models, options.tasks, options.split)
    text = comparison.table(rows, options.models, options.paper)
    if options.output_dir:
        comparison.write(options.output_dir, rows, options.models, text)
    print(text)
    print(
        "In brackets: 95% of 1,000 bootstrap draws of the examples. Each model is at its best "
        "checkpoint for the task."
    )


def superglue(options: argparse.Namespace) -> None:
    """`run_switch.py superglue`."""
    from mtf_switch.downstream import superglue as submission

    saved_config.load(options.model_dir, options.gin_file, _params(options))
    written = submission.write(
        options.model_dir, options.output_dir, options.step, _cluster(options)
    )
    print(submission.table(written))


def tasks(options: argparse.Namespace) -> None:
    """`run_switch.py tasks`."""
    from tasks import task_list

    gin_text.parse(options.gin_file, _params(options))
    registry.register()
    found = task_list.list_tasks(options.pattern)
    if not found:
        raise UserError(
            f"No task or mixture matches {options.pattern!r}. '*glue*' in quotes matches some."
        )
    print(task_list.format_table(found))


def prepare(options: argparse.Namespace) -> None:
    """`run_switch.py prepare`."""
    from tasks import tfds_data

    if options.data_dir:
        os.makedirs(options.data_dir, exist_ok=True)
    gin_text.parse(options.gin_file, _params(options))
    data.check_known(options.task)
    registry.prepare_text(options.task)
    done = tfds_data.prepare_datasets(options.task)
    tfds_data.check_prepared(options.task)
    print(f"{options.task} is ready." + (f" Prepared: {', '.join(done)}." if done else ""))


def plan(options: argparse.Namespace) -> None:
    """`run_switch.py plan`."""
    if not options.gin_file:
        raise UserError(
            "No model is named: pass --gin_file, such as --gin_file=models/switch_c.gin "
            "--gin_file=layouts/expert_2048.gin."
        )
    from mtf_switch.planning import plan_report, planner

    if options.output_dir:
        plan_report.check_folder(options.output_dir, bool(options.compare))
    vocabulary = options.vocab_size or planner.VOCABULARY
    plans = {}
    layouts = options.compare or [""]
    for layout in tqdm(layouts, "plan", unit="layout", leave=False, disable=len(layouts) < 2):
        files = [*options.gin_file, *([layout] if layout else [])]
        settings = planner.parse(files, options.gin_param, options.batch_tokens)
        plans[layout] = planner.plan(settings, vocabulary)
    compared = bool(options.compare)
    report = plan_report.comparison(plans) if compared else plan_report.single(plans[""])
    if options.output_dir:
        report.write(options.output_dir)
    print(report.to_json() if options.json else report.text)


def _params(options: argparse.Namespace) -> list[str]:
    """The bindings of the flags that commands share."""
    flags = {
        "task": "MIXTURE_NAME",
        "data_dir": "tfds_data.data_dir",
        "vocabulary": "task_vocabulary.source",
    }
    params = [
        f"{name} = {value!r}"
        for flag, name in flags.items()
        if (value := getattr(options, flag, None)) is not None
    ]
    return [*options.gin_param, *params, *_devices(options)]


def _devices(options: argparse.Namespace) -> list[str]:
    if not hasattr(options, "devices"):
        return []
    if options.devices and options.tpu:
        raise UserError("--devices is for this machine and --tpu for another: give one.")
    if options.tpu:  # whatever a model_dir was trained on
        return ["devices.value = None"]
    return [f"devices.value = {options.devices}"] if options.devices else []


def _cluster(options: argparse.Namespace) -> Any | None:
    """The TPU that the flags name, or None for this machine."""
    if not options.tpu:
        return None
    import tensorflow as tf

    return tf.distribute.cluster_resolver.TPUClusterResolver(
        options.tpu, zone=options.tpu_zone, project=options.gcp_project
    )
