"""Hugging Face transformers on the work of scripts/peers; prints one JSON line. Needs torch and transformers.

The model is built from the shape on the command line, with random weights and everything else as the library has it.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

NEW_TOKENS = 32  # in one run of decode


def main() -> None:
    """Times one kind of step and prints tokens per second, the median of the steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=["train", "prefill", "decode"])
    parser.add_argument("--shape", type=json.loads, required=True, help="keys of a config.json")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--length", type=int, required=True, help="tokens of a sequence, a prompt or a context")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu", help="as torch names it: cpu, cuda:0")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    with torch.device(options.device):
        model = LlamaForCausalLM(LlamaConfig(**options.shape, attn_implementation="sdpa")).to(dtype)
        tokens = torch.randint(options.shape["vocab_size"], (options.batch, options.length))
    step, work = {"train": training, "prefill": prefill, "decode": decode}[options.phase](model, tokens)
    for _ in range(2):
        step()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < options.seconds:
        times.append(step())
    print(json.dumps({"tokens_per_s": work / median(times), "steps": len(times)}))


Step = tuple[Callable[[], float], int]


def now_s() -> float:
    """The clock, once everything that was launched is done."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def training(model: Any, tokens: torch.Tensor) -> Step:
    """Forward, backward and AdamW with torch's defaults."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> float:
        start = now_s()
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        return now_s() - start

    model.train()
    return step, tokens.numel()


def prefill(model: Any, tokens: torch.Tensor) -> Step:
    """The prompt into an empty cache, logits of the last token."""
    model.eval()

    @torch.inference_mode()
    def step() -> float:
        start = now_s()
        model(input_ids=tokens, past_key_values=DynamicCache(config=model.config), use_cache=True, logits_to_keep=1)
        return now_s() - start

    return step, tokens.numel()


def decode(model: Any, tokens: torch.Tensor) -> Step:
    """NEW_TOKENS after a prompt, one after the other; only these are timed."""
    model.eval()

    @torch.inference_mode()
    def step() -> float:
        cache = DynamicCache(config=model.config)
        out = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        start = now_s()
        for _ in range(NEW_TOKENS):
            following = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=following, past_key_values=cache, use_cache=True)
        return now_s() - start

    return step, tokens.shape[0] * NEW_TOKENS


if __name__ == "__main__":
    main()
