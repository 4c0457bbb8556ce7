"""Times steps of transformers' Switch Transformer on behalf of another process.

It runs in its own environment with torch and transformers, on which this project does not
depend. `timing.time_in_another_process` starts it. It prints its versions, and then answers
each line of input with the seconds that one step took.
"""

import json
import sys
import time

import torch
import transformers
from transformers import (
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.switch_transformers import modeling_switch_transformers
from transformers.optimization import Adafactor


def build_layer_step(setting):
    """Builds the forward and backward pass of one Switch layer.

    transformers computes the capacity per sequence, so each group is a sequence.
    """
    size, experts = setting["group_size"], setting["experts"]
    config = SwitchTransformersConfig(
        d_model=setting["d_model"],
        d_ff=setting["d_ff"],
        num_experts=experts,
        expert_capacity=int(size * setting["capacity_factor"] / experts),
        dropout_rate=0.0,
        router_jitter_noise=0.0,
    )
    dtype = getattr(torch, setting["dtype"])
    module = modeling_switch_transformers.SwitchTransformersSparseMLP(config).to(dtype)
    shape = (setting["tokens"] // size, size, setting["d_model"])

    def step():
        x = torch.randn(shape, dtype=dtype, requires_grad=True)
        module.zero_grad()
        start = time.perf_counter()
        y = module(x)
        y = y[0] if isinstance(y, tuple) else y
        y.float().square().mean().backward()
        return time.perf_counter() - start

    return step


def build_model(setting, **changes):
    """Builds a whole model with random weights."""
    blocks = setting["blocks"]
    shared = {
        "vocab_size": setting["vocabulary"],
        "d_model": setting["d_model"],
        "d_kv": 64,
        "d_ff": setting["d_ff"],
        "num_layers": blocks,
        "num_decoder_layers": blocks,
        "num_heads": setting["heads"],
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        **changes,
    }
    if setting["experts"] == 1:
        model = T5ForConditionalGeneration(T5Config(**shared))
    else:
        sparse = {
            "num_sparse_encoder_layers": blocks // 2,
            "num_sparse_decoder_layers": blocks // 2,
            "num_experts": setting["experts"],
            # Enough for every token of a sequence, so that none is dropped.
            "expert_capacity": setting["inputs"],
            "router_jitter_noise": 0.0,
        }
        config = SwitchTransformersConfig(**shared, **sparse)
        model = SwitchTransformersForConditionalGeneration(config)
    return model.to(getattr(torch, setting["dtype"]))


def build_training_step(setting):
    """Builds a training step of a whole model: loss, gradients, Adafactor.

    The loss of a sparse model has the losses of its routers. Without them, nearly all tokens
    go to few experts after some steps. transformers computes and updates only experts that have
    tokens.
    """
    model = build_model(setting).train()
    optimizer = Adafactor(
        model.parameters(), lr=0.01, relative_step=False, scale_parameter=True
    )
    batch, vocabulary = setting["batch_size"], setting["vocabulary"]
    losses = {"output_router_logits": True} if setting["experts"] > 1 else {}

    def step():
        inputs = torch.randint(2, vocabulary, (batch, setting["inputs"]))
        targets = torch.randint(2, vocabulary, (batch, setting["targets"]))
        start = time.perf_counter()
        model(input_ids=inputs, labels=targets, **losses).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def build_decoding(setting):
    """Builds decoding of a batch: greedy, or with beams. No sequence ends early."""
    # With tied embeddings, random weights repeat one token forever.
    model = build_model(setting, tie_word_embeddings=False).eval()
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[setting["clock"]]
    shape = (setting["batch_size"], setting["inputs"])

    @torch.inference_mode()
    def step():
        inputs = torch.randint(2, setting["vocabulary"], shape)
        start = clock()
        model.generate(
            inputs,
            num_beams=setting["beams"],
            do_sample=False,
            min_new_tokens=setting["targets"],
            max_new_tokens=setting["targets"],
        )
        return clock() - start

    return step


_PARTS = {"layer": build_layer_step, "step": build_training_step, "decode": build_decoding}


def main():
    torch.manual_seed(0)
    step = _PARTS[sys.argv[1]](json.loads(sys.argv[2]))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(versions), flush=True)
    for _ in sys.stdin:
        print(step(), flush=True)


if __name__ == "__main__":
    main()
