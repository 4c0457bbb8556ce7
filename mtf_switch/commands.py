"""What each command of the command line does, from its options to its last line."""

from __future__ import annotations

import argparse
import os
from typing import Any

from tqdm import tqdm

from mtf_switch import conversion, evaluation, prediction, run_config, training
from mtf_switch.errors import UserError
from mtf_switch.upcycling import Upcycling


def train(options: argparse.Namespace) -> None:
    """`run_switch.py train`."""
    params = list(options.gin_param)
    if options.corpus is not None:
        params += [f"text_files.files = {options.corpus!r}", "MIXTURE_NAME = 'text_files'"]
    if options.task is not None:
        params.append(f"MIXTURE_NAME = {options.task!r}")
    if options.steps is not None:
        params.append(f"utils.run.train_steps = {options.steps}")
    if options.seed is not None:
        params.append(f"run_config.seed.value = {options.seed}")
    if options.gin_file:
        run_config.parse(options.gin_file, params + _devices(options))
    elif os.path.isfile(os.path.join(options.model_dir, "config.gin")):
        run_config.load(options.model_dir, [], params + _devices(options))
    else:
        raise UserError(
            "No model is named: pass --gin_file, such as --gin_file=models/switch_tiny.gin "
            "--gin_file=runs/embedded.gin."
        )
    step = training.train(options.model_dir, _cluster(options))
    print(
        f"{options.model_dir} is at step {step}. Next: run_switch.py eval "
        f"--model_dir={options.model_dir}"
    )


def eval(options: argparse.Namespace) -> None:
    """`run_switch.py eval`."""
    run_config.load(options.model_dir, options.gin_file, _params(options))
    result = evaluation.evaluate(
        options.model_dir, options.split, options.eval_batches, _cluster(options)
    )
    evaluation.write(options.model_dir, result)
    print(evaluation.table(result))


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
    run_config.load(options.model_dir, options.gin_file, params)
    prediction.predict(
        options.model_dir, options.input_file, options.output_file, _cluster(options)
    )


def score(options: argparse.Namespace) -> None:
    """`run_switch.py score`."""
    run_config.load(options.model_dir, options.gin_file, _params(options))
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
    converted = conversion.convert(
        conversion.Conversion(
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
    print(conversion.table(converted, options.target))


def plan(options: argparse.Namespace) -> None:
    """`run_switch.py plan`."""
    if not options.gin_file:
        raise UserError(
            "No model is named: pass --gin_file, such as --gin_file=models/switch_c.gin "
            "--gin_file=layouts/expert_2048.gin."
        )
    from mtf_switch import plan_report, planner

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
    print(report.json() if options.json else report.text)


def _params(options: argparse.Namespace) -> list[str]:
    task = getattr(options, "task", None)
    params = [f"MIXTURE_NAME = {task!r}"] if task else []
    return [*options.gin_param, *params, *_devices(options)]


def _devices(options: argparse.Namespace) -> list[str]:
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
