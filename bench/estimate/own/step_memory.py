"""Footprint: bytes that one step of our own workloads holds at its worst moment, tensor by tensor.

What `peak_memory_bytes` of a record counts: all that torch has allocated, from building the model to the last step.
A peak is the largest of several moments and not the sum of everything: gradients do not exist yet when activations and
logits are largest, and activations are gone when all gradients are there.

Symbols as in operations.py; w bytes of what products take, P parameters.
"""

import math
from dataclasses import dataclass

from bench.arithmetic import Model
from bench.estimate.own.operations import trained_parameters
from bench.estimate.own.step import StepShape

# The block of normal numbers from which the harness cuts all its inputs (bench/device/base.py).
POOL_BYTES = 64 << 20
# Weights of one shape are tried in both orders on a CPU, so many bytes of them at a time (workloads/models/layout.py).
_TRIED_BYTES = 256 << 20
_CODING_BYTES = 30  # of one weight, on its way into four bits: copies in float32, and indices of eight bytes
_NF4_BYTES = 0.5 + 4 / 64  # half a byte, and a float32 scale for 64 (workloads/models/adapters.py)


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes on the fullest device at its fullest moment, by what they are for, without allocator and context."""

    parts: dict[str, float]

    @property
    def num_bytes(self) -> float:
        """All parts together: what torch would call allocated."""
        return math.fsum(self.parts.values())

    @classmethod
    def largest(cls, *moments: dict[str, float]) -> "Footprint":
        """The moment that needs most, without its empty parts."""
        worst = max(moments, key=lambda parts: math.fsum(parts.values()))
        return cls(parts={name: size for name, size in worst.items() if size})


def of_step(step: StepShape, *, on_cpu: bool) -> Footprint:
    """Of one step of train_step, finetune_step, prefill, decode and their like."""
    return _training(step) if step.kind == "train" else _inference(step, on_cpu)


def _training(step: StepShape) -> Footprint:
    """In the backward pass of the loss, of the head, of the last layer; and when all gradients are there."""
    model, tokens = step.model, float(step.tokens)
    trained = trained_parameters(step)
    standing = {"inputs": float(POOL_BYTES), "weights": _weights(step), "optimizer": 8.0 * trained}
    gradients, casts = 4.0 * trained, step.width * model.matmul_parameters if step.mixed else 0.0
    layer = layer_bytes(step)
    kept = model.num_blocks * layer
    if step.recompute != "none":
        kept = model.num_blocks * tokens * _between(step) if step.recompute == "selective" else 0.0
        kept += model.num_blocks * tokens * model.hidden_size * _stream(step)
    kept += 2 * tokens * model.hidden_size * _stream(step)  # of the last norm and the head
    asked = min(tokens, step.loss_chunk or tokens)
    logits, head = asked * model.vocab_size * 4.0, 4.0 * model.head_matmul_parameters
    before = gradients if step.accumulate > 1 else 0.0
    head_gradient = head if step.method == "full" else 0.0  # beside all others where it is added to an earlier one
    anew = {"none": 0.0, "full": layer, "selective": layer - tokens * _kept_anyway(step)}[step.recompute]
    # Probabilities, their gradient and that of the logits; then the last alone, with the head's; then the last layer's.
    loss = {"activations": kept, "logits": 3 * logits, "casts": casts, "gradients": before}
    top = {
        "activations": kept, "logits": logits if step.width == 4 else 1.5 * logits, "casts": casts,
        "gradients": before + head_gradient,
    }  # fmt: skip
    last = {
        "activations": kept + anew + _backward_bytes(step) - tokens * model.hidden_size * _stream(step),
        "casts": casts, "gradients": before + head_gradient,
    }  # fmt: skip
    # The embedding's gradient comes last. Tied, it is added to the head's into a third tensor as large.
    twice = head_gradient * (2 if model.tie_word_embeddings else 1 if before else 0)
    end = {"gradients": gradients + twice}
    moments = [standing | moment for moment in (loss, top, last, end)]
    if step.method == "qlora":  # weights are there in full before one after the other is put into four bits
        coding = float(_CODING_BYTES * model.hidden_size * model.intermediate_size)
        whole = float(step.width * model.total_parameters)
        moments.append({"inputs": float(POOL_BYTES), "weights": whole, "building": coding})
    return Footprint.largest(*moments)


def _inference(step: StepShape, on_cpu: bool) -> Footprint:
    """While a layer works on the tokens; and before, while the model is built."""
    model, tokens, w = step.model, float(step.tokens), float(step.width)
    standing = {"inputs": float(POOL_BYTES), "weights": w * model.total_parameters}
    length = step.length + step.context
    # In a layer with a window the cache is no shorter here.
    values = model.kv_cache_bytes_per_token(1) * length * step.batch
    mlp = 2 * model.hidden_size + (3 if model.num_mlp_matrices == 3 else 2) * widest(model)
    attention = 2 * model.hidden_size + 4 * model.query_size + 2 * model.key_value_size
    working = {
        "kv cache": values * w,
        "activations": tokens * max(mlp, attention) * w,
        "logits": step.batch * model.vocab_size * w,
    }
    # A tied head has a weight of its own until it gets the embedding's.
    building = {"building": w * model.head_matmul_parameters if model.tie_word_embeddings else 0.0}
    if on_cpu and step.kind == "decode" and step.dtype == "float32" and step.weights == "full":
        building = {"kv cache": values * w, "building": max(building["building"], _tried_bytes(model))}
    if step.weights != "full":
        building = {"kv cache": values * w, "building": 12.0 * model.hidden_size * model.intermediate_size}
    return Footprint.largest(standing | working, standing | building)


def layer_bytes(step: StepShape) -> float:
    """What autograd keeps of one layer whose attention keeps no scores (after Korthikanti et al. 2022, section 4).

    Inputs of norms and linear layers (under autocast a narrow copy for each), queries, keys, values, attention's output
    and the logarithms of its sums, and the MLP's hidden vectors; an RMS norm written out keeps its normed input.
    """
    model, tokens, w, d = step.model, float(step.tokens), step.width, step.model.hidden_size
    stream = 2 * d * _stream(step)
    # The normed input is kept for the gradient of the norm's weight.
    norms = 2 * d * (_stream(step) if model.norm == "rms_norm" and step.method == "full" else 0)
    readers = (3 + (2 if model.num_mlp_matrices == 3 else 1)) if step.mixed else 2
    heads = (2 * model.query_size + 2 * model.key_value_size) * w + 4 * model.num_attention_heads
    hidden = (4 if model.num_mlp_matrices == 3 else 2) * widest(model) * w
    # Rows sorted by expert, what experts make of them, and that in the order of the tokens.
    hidden += 3 * (model.num_experts_per_tok or 0) * d * w
    narrow = 0.0
    if step.method != "full":  # the narrow vectors of adapters, and a wide copy of each input where that is 16 bits
        narrow = 7 * step.rank * 4.0 + (0.0 if w == 4 else 4.0 * (3 * d + widest(model)))
    return tokens * (stream + norms + readers * d * w + heads + hidden + narrow)


def widest(model: Model) -> float:
    """Hidden vectors of the MLP of one token: of experts those that it passes."""
    if not model.num_experts:
        return float(model.intermediate_size)
    chosen = (model.num_experts_per_tok or 0) * (model.moe_intermediate_size or 0)
    dense = model.intermediate_size if model.num_dense_layers else 0
    return float(max(dense, chosen + (model.shared_expert_intermediate_size or 0)))


def _weights(step: StepShape) -> float:
    model = step.model
    if step.method == "full":
        return 4.0 * model.total_parameters
    layers = model.layer_matmul_parameters
    base = _NF4_BYTES * layers if step.method == "qlora" else float(step.width * layers)
    return base + step.width * (model.total_parameters - layers) + 4.0 * trained_parameters(step)


def _stream(step: StepShape) -> int:
    """Bytes of an element of the stream between the layers."""
    return 4 if step.mixed else step.width


def _between(step: StepShape) -> float:
    """Of one token and layer what selective recomputation keeps: the outputs of products and of attention."""
    model = step.model
    mlp = (model.num_mlp_matrices - 1) * widest(model)
    heads = 2 * model.query_size + 2 * model.key_value_size
    return step.width * (2 * model.hidden_size + heads + mlp) + 4 * model.num_attention_heads


def _kept_anyway(step: StepShape) -> float:
    """Of one token what autograd wants of a layer and selective recomputation keeps: values, attention, gates."""
    model = step.model
    gates = (model.num_mlp_matrices - 1) * widest(model)
    return step.width * (model.key_value_size + model.query_size + gates)


def _backward_bytes(step: StepShape) -> float:
    """Gradients on their way through the last layer's MLP."""
    return float(step.tokens * step.width) * (2 * step.model.hidden_size + 2 * widest(step.model))


def _tried_bytes(model: Model) -> float:
    """The largest group of equal weights that is copied into the other order, as far as that goes at a time."""
    d, f, layers = model.hidden_size, model.intermediate_size, model.num_blocks
    groups = [
        (4.0 * d * f, layers * max(1, model.num_mlp_matrices - 1)),
        (4.0 * d * model.query_size, layers * (4 if model.query_size == model.key_value_size else 2)),
        (4.0 * model.head_matmul_parameters, 1),
    ]
    return max(each * min(count, max(1, int(_TRIED_BYTES // each))) for each, count in groups)
