"""Creates and runs transformers' T5 and Switch Transformer, in a separate process.

It runs in a separate environment with torch and transformers (tests/requirements-torch.txt), so
that the tests depend on neither. Each line of its input is a task as a JSON object, {"do":
"make" or "run", ...}. It writes files and answers each task with one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from unittest import mock

import numpy as np
import torch
import transformers
from transformers.models.switch_transformers import modeling_switch_transformers as switch
from transformers.models.t5 import modeling_t5

TARGETS_START = 0


def make(task):
    """Saves a random model and its outputs for ids; the task is a `hf_models.Case` and more."""
    torch.manual_seed(task["seed"])
    config = dict(task["config"])
    gated_switch = task["kind"] == "switch" and task["gated"]
    with contextlib.ExitStack() as stack:
        if gated_switch:
            # transformers has no gated experts, so T5's gated layer takes the place of each.
            layer = ("SwitchTransformersDenseActDense", modeling_t5.T5DenseGatedActDense)
            stack.enter_context(mock.patch.object(switch, *layer))
            initialize = mock.patch.object(
                switch.SwitchTransformersPreTrainedModel, "_init_weights"
            )
            stack.enter_context(initialize)
            config["dense_act_fn"] = "gelu_new"
        model = _create_model(task["kind"], config)
    if not config.get("tie_word_embeddings", True):
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    _randomize(model)
    if task["kind"] == "switch":
        # Without tied logits, transformers 5 gives each stack its own embedding; T5 has one.
        for stack in (model.encoder, model.decoder):
            if stack.embed_tokens.weight is not model.shared.weight:
                stack.embed_tokens.weight = torch.nn.Parameter(model.shared.weight.clone())
    dtype = getattr(torch, task.get("dtype", "float32"))
    model = model.to(dtype)
    model.save_pretrained(task["folder"], max_shard_size=task.get("shard", "5GB"))
    if gated_switch:
        _edit_config(task["folder"], feed_forward_proj="gated-gelu", is_gated_act=True)
    run(task, model.float())


def _create_model(kind, config):
    config = {"decoder_start_token_id": TARGETS_START, "pad_token_id": 0, **config}
    if kind == "switch":
        return switch.SwitchTransformersForConditionalGeneration(
            transformers.SwitchTransformersConfig(**config)
        )
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**config))


def _randomize(model):
    """Draws every parameter, so that each of them affects the outputs."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif "relative_attention_bias" in name:
                parameter.copy_(torch.randn_like(parameter))
            elif name == "shared.weight":
                # Small, because with tied logits each token would otherwise predict itself.
                parameter.copy_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)


def _edit_config(folder, **values):
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        config = json.load(file)
    with open(path, "w") as file:
        json.dump({**config, **values}, file)


def run(task, model=None):
    """Writes the outputs of a model for ids.

    Args:
      task: {"kind", "folder", "inputs", "targets", "outputs"}; "outputs" is a path.
      model: The model; None loads it from the folder.
    """
    if model is None:
        auto = transformers.AutoModelForSeq2SeqLM
        model, loading = auto.from_pretrained(
            task["folder"], output_loading_info=True, dtype=torch.float32
        )
        problems = {key: value for key, value in loading.items() if value}
        if problems:
            raise SystemExit(f"transformers loaded it with {problems}")
    model.eval()
    inputs, targets = (torch.tensor(task[name]) for name in ("inputs", "targets"))
    captured = {}
    if task["kind"] == "switch":
        _capture(model, captured)
    shifted = torch.cat([torch.full_like(targets[:, :1], TARGETS_START), targets[:, :-1]], 1)
    mask = (inputs != 0).long()
    with torch.no_grad():
        out = model(input_ids=inputs, attention_mask=mask, decoder_input_ids=shifted)
        arrays = {name: np.stack(values) for name, values in captured.items()}
        captured["done"] = True
        log_probs = torch.log_softmax(out.logits, -1)
        chosen = torch.gather(log_probs, -1, targets[..., None])[..., 0]
        decoded = model.generate(
            input_ids=inputs,
            attention_mask=mask,
            do_sample=False,
            num_beams=1,
            max_new_tokens=targets.shape[1],
            # The cache of transformers has only as many layers as the encoder.
            use_cache=False,
        )
    np.savez(
        task["outputs"],
        inputs=inputs,
        targets=targets,
        encoder=out.encoder_last_hidden_state,
        logits=out.logits,
        log_likelihoods=(chosen * (targets != 0)).sum(-1),
        decoded=decoded[:, 1:],
        **arrays,
    )


def _capture(model, captured):
    """Records inputs, outputs and chosen experts of each stack's sparse layers, in order."""
    for stack in ("encoder", "decoder"):
        for module in getattr(model, stack).modules():
            if isinstance(module, switch.SwitchTransformersSparseMLP):

                def after(module, arguments, output, stack=stack):
                    x = arguments[0]
                    if captured.get("done"):
                        return
                    logits = module.router.classifier(x.float())
                    for name, value in (
                        ("x", x),
                        ("y", output),
                        ("choice", logits.argmax(-1)),
                    ):
                        captured.setdefault(f"{stack}_{name}", []).append(value.numpy())

                module.register_forward_hook(after)


def main():
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        {"make": make, "run": run}[task["do"]](task)
        print(json.dumps({"done": task["folder"]}), flush=True)


if __name__ == "__main__":
    main()
