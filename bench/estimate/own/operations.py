"""Operations: a step taken apart into matrix products by their real shapes, attention, passes over memory, and the
optimizer. How long one of them takes is not known here: see laws.py.

Symbols: T tokens of a micro-batch, d hidden_size, a query heads, k key-value heads, h head_dim, f intermediate_size,
V vocabulary, E experts, e experts for each token.
"""

from collections.abc import Iterator

from bench.arithmetic import Model
from bench.estimate.own.step import Attend, Operation, Pass, PassKind, Product, ReadCache, StepShape, Update, Weights


def operations(step: StepShape) -> list[Operation]:
    """All operations of a step."""
    forward = [*_blocks(step), *_ends(step)]
    if step.kind != "train":
        return forward
    found: list[Operation] = [*_repeat(forward, step.accumulate)]
    found += _repeat([*_backward(step, forward), *_loss(step)], step.accumulate)
    if step.recompute != "none":
        again = [one for one in _blocks(step) if step.recompute == "full" or isinstance(one, Pass)]
        found += _repeat(again, step.accumulate)
    trained, tensors = trained_parameters(step), num_tensors(step)
    if step.accumulate > 1:  # gradients of later micro-batches are added to the first's
        found.append(
            Pass(kind="copy", num_bytes=12.0 * trained, launches=tensors, cached=False, count=step.accumulate - 1)
        )
    if step.mixed:  # autocast writes narrow weights, and gradients come back wide
        found.append(
            Pass(
                kind="copy",
                num_bytes=2.0 * (4 + step.width) * step.model.matmul_parameters,
                launches=2 * tensors,
                cached=False,
                count=step.accumulate,
            )
        )
    # Clipping reads all gradients, then scales them.
    found.append(Pass(kind="copy", num_bytes=12.0 * trained, launches=2 * tensors, cached=False))
    return [*found, Update(parameters=trained, tensors=tensors)]


def trained_parameters(step: StepShape) -> int:
    """Parameters with a gradient."""
    return step.model.total_parameters if step.method == "full" else adapter_parameters(step.model, step.rank)


def adapter_parameters(model: Model, rank: int) -> int:
    """Two matrices for each linear layer of the blocks: rank times the sum of its sides (Hu et al. 2021)."""
    return rank * sum(n + k for n, k in _sides(model)) * model.num_hidden_layers


def num_tensors(step: StepShape) -> int:
    """About how many tensors the optimizer is given."""
    per_layer = len(_sides(step.model)) * (2 if step.method != "full" else 1 + bool(step.model.mlp_bias)) + 2
    return per_layer * step.model.num_blocks + 3


def _sides(model: Model) -> list[tuple[int, int]]:
    """Rows and columns of each linear layer of a dense block: q, k, v, o and the MLP's."""
    d, q, kv = model.hidden_size, model.query_size, model.key_value_size
    gates = [(model.intermediate_size, d)] * (model.num_mlp_matrices - 1)
    if model.kv_lora_rank is None:
        return [(q, d), (kv, d), (kv, d), (d, q), *gates, (d, model.intermediate_size)]
    rotated, plain = model.qk_rope_head_dim or 0, model.qk_nope_head_dim or 0
    heads, rank = model.num_attention_heads, model.kv_lora_rank
    queries = [(q, d)] if model.q_lora_rank is None else [(model.q_lora_rank, d), (q, model.q_lora_rank)]
    latent = [(rank + rotated, d), (heads * (plain + model.value_head_dim), rank), (d, heads * model.value_head_dim)]
    return [*queries, *latent, *gates, (d, model.intermediate_size)]


def _blocks(step: StepShape) -> list[Operation]:
    """Forward through all layers."""
    model = step.model
    dense = model.num_blocks - model.num_expert_layers
    mlp_sides = model.num_mlp_matrices
    found: list[Operation] = []
    for n, k in _sides(model)[:-mlp_sides]:
        found += _linear(step, n, k, model.num_blocks)
    for n, k in _sides(model)[-mlp_sides:]:
        if dense:
            found += _linear(step, n, k, dense)
    if model.num_expert_layers:
        found += _experts(step)
    return [*found, *_attention(step), *_passes(step)]


def _linear(step: StepShape, n: int, k: int, count: float) -> Iterator[Operation]:
    """One linear layer, with its adapter where it has one."""
    weights: Weights = "nf4" if step.method == "qlora" else step.weights
    chosen = step.kind == "decode"
    yield Product(m=step.tokens, n=n, k=k, dtype=step.dtype, weights=weights, chosen=chosen, count=count)
    if step.method != "full":
        yield Product(m=step.tokens, n=step.rank, k=k, dtype=step.dtype, count=count)
        yield Product(m=step.tokens, n=n, k=step.rank, dtype=step.dtype, count=count)
        # The adapter's output is scaled and added.
        yield Pass(kind="copy", num_bytes=5.0 * step.tokens * n * step.width, launches=2, count=count)


def _experts(step: StepShape) -> Iterator[Operation]:
    """Products of the experts that this many tokens need, the router, and the moving of rows to experts and back."""
    model, layers, tokens = step.model, step.model.num_expert_layers, step.tokens
    d, width, chosen = model.hidden_size, model.moe_intermediate_size or 0, model.num_experts_per_tok or 0
    used = max(1.0, model.expected_experts_read(tokens))
    rows = max(1, round(tokens * chosen / used))
    shapes = [(width, d)] * (model.num_mlp_matrices - 1) + [(d, width)]
    for n, k in shapes:
        yield Product(m=rows, n=n, k=k, dtype=step.dtype, count=used * layers)
    if shared := model.shared_expert_intermediate_size:
        for n, k in [(shared, d)] * (model.num_mlp_matrices - 1) + [(d, shared)]:
            yield Product(m=tokens, n=n, k=k, dtype=step.dtype, count=layers)
    yield Product(m=tokens, n=model.num_experts or 0, k=d, dtype=step.dtype, count=layers)
    hidden = tokens * chosen * width + tokens * (model.shared_expert_intermediate_size or 0)
    yield Pass(kind="swiglu", num_bytes=3.0 * hidden * step.width, launches=4, count=layers)
    # Rows gathered, put back and added up; and the small operations of the router.
    yield Pass(kind="copy", num_bytes=7.0 * tokens * chosen * d * step.width, launches=14, count=layers)


def _attention(step: StepShape) -> Iterator[Operation]:
    model = step.model
    heads, kv_heads, h = model.num_attention_heads, model.num_key_value_heads, model.head_dim
    windowed = model.num_windowed_layers
    if step.kind == "decode":
        if model.kv_lora_rank is not None:  # all heads read one narrow vector
            kv_heads, h = 1, (model.kv_lora_rank + (model.qk_rope_head_dim or 0)) // 2
        spans = [(step.context + 1, model.num_blocks - windowed)]
        spans += [(min(step.context + 1, model.sliding_window or step.context + 1), windowed)]
        for context, count in spans:
            if count:
                yield ReadCache(
                    batch=step.batch, heads=heads, kv_heads=kv_heads, context=context, head_dim=h, dtype=step.dtype,
                    width=step.width, count=count,
                )  # fmt: skip
        return
    yield Attend(
        batch=step.batch, heads=heads, kv_heads=kv_heads, seq=step.length, head_dim=h, dtype=step.dtype,
        pairs=model.attended_pairs(step.length) / model.num_blocks, count=model.num_blocks,
    )  # fmt: skip


def _passes(step: StepShape) -> Iterator[Operation]:
    """What stands between the products: norms, additions to the stream, rotation, activation, the cache's writing."""
    model, tokens, layers = step.model, step.tokens, step.model.num_blocks
    d, stream = model.hidden_size, 4 if step.mixed else step.width
    norms = {"serial": 2, "parallel": 2, "parallel_one_norm": 1}[model.block] * (2 if model.norm_place == "both" else 1)
    norm: PassKind = "layer_norm" if model.norm == "layer_norm" else "rms_norm"
    yield Pass(kind=norm, num_bytes=2.0 * tokens * d * stream, count=norms * layers)
    yield Pass(kind="copy", num_bytes=3.0 * tokens * d * stream, count=2 * layers)
    turned = model.query_size + model.key_value_size
    if model.position == "rope":
        share = (model.rotary_dim or model.head_dim) / model.head_dim
        yield Pass(
            kind="rope", num_bytes=2.0 * tokens * (turned * share + model.head_dim) * step.width, launches=6,
            count=layers,
        )  # fmt: skip
    if model.qk_norm != "none":
        yield Pass(kind="rms_norm", num_bytes=2.0 * tokens * turned * step.width, launches=2, count=layers)
    gated = model.num_mlp_matrices == 3
    dense = layers - model.num_expert_layers
    if dense:
        moved = (3.0 if gated else 2.0) * tokens * model.intermediate_size * step.width
        yield Pass(kind="swiglu", num_bytes=moved, launches=2 if gated else 1, count=dense)
    if step.mixed:  # autocast narrows the input of every linear layer anew
        yield Pass(kind="copy", num_bytes=(4.0 + step.width) * tokens * d, count=len(_sides(model)) * layers)
    if step.kind != "train":
        cached = model.kv_cache_bytes_per_token(step.width) / layers
        yield Pass(kind="copy", num_bytes=2.0 * tokens * cached, launches=2, count=layers)


def _ends(step: StepShape) -> Iterator[Operation]:
    """Embedding, last norm and head: of all tokens where they have a loss, of each sequence's last where not."""
    model, stream = step.model, 4 if step.mixed else step.width
    asked = step.tokens if step.kind == "train" else step.batch
    quantised = step.weights if not model.tie_word_embeddings else "full"
    yield Pass(kind="embedding", num_bytes=2.0 * step.tokens * model.hidden_size * stream, launches=2, cached=False)
    yield Pass(kind=_norm(model), num_bytes=2.0 * step.tokens * model.hidden_size * stream)
    yield Product(
        m=asked, n=model.vocab_size, k=model.hidden_size, dtype=step.dtype, weights=quantised,
        chosen=step.kind == "decode",
    )  # fmt: skip


def _norm(model: Model) -> PassKind:
    return "layer_norm" if model.norm == "layer_norm" else "rms_norm"


def _loss(step: StepShape) -> Iterator[Operation]:
    """Cross-entropy with its gradient; chunks compute their logits twice."""
    model, logits = step.model, float(step.tokens * step.model.vocab_size)
    yield Pass(kind="cross_entropy", num_bytes=3.0 * logits * step.width, launches=6, cached=False)
    if step.loss_chunk:
        yield Product(m=step.tokens, n=model.vocab_size, k=model.hidden_size, dtype=step.dtype)


def _backward(step: StepShape, forward: list[Operation]) -> Iterator[Operation]:
    """For each forward operation what its gradients take."""
    model, tokens = step.model, step.tokens
    stream = 4 if step.mixed else step.width
    for one in forward:
        if isinstance(one, Product):
            yield from _product_gradients(step, one)
        elif isinstance(one, Attend):
            yield Attend(**{**vars(one), "backward": True})
        elif isinstance(one, Pass):
            yield _pass_gradient(one)
    # A tensor that several layers read has its gradients added up: of q, k, v and of gate and up; and the stream's.
    joints = 2 + 2 + (1 if model.num_mlp_matrices == 3 else 0)
    yield Pass(kind="copy", num_bytes=3.0 * tokens * model.hidden_size * stream, count=joints * model.num_blocks)
    if model.attention_bias or model.mlp_bias:  # a bias's gradient sums over all tokens
        summed = model.query_size + 2 * model.key_value_size + 2 * model.hidden_size + model.intermediate_size
        yield Pass(kind="copy", num_bytes=float(tokens * summed * step.width), launches=6, count=model.num_blocks)
    if step.method == "full":
        table = model.vocab_size * model.hidden_size * 4.0
        times = 4 if model.tie_word_embeddings else 1  # tied: added to the head's gradient
        yield Pass(kind="copy", num_bytes=times * table, launches=2, cached=False)


def _product_gradients(step: StepShape, one: Product) -> Iterator[Operation]:
    """That of the input, and of the weight unless it is frozen."""
    yield Product(**{**vars(one), "n": one.k, "k": one.n, "layout": "nn"})
    is_adapter = step.rank in (one.n, one.k)
    if step.method == "full" or is_adapter:
        yield Product(**{**vars(one), "m": one.n, "n": one.k, "k": one.m, "layout": "tn"})


# Tensors that a pass and its gradient move, by the micro workloads' own counts (their `cost`, backward or not).
_GRADIENT_BYTES = {"rms_norm": 3 / 2, "layer_norm": 3 / 2, "rope": 1.0, "swiglu": 5 / 3, "copy": 0.0, "embedding": 1.0}


def _pass_gradient(one: Pass) -> Pass:
    """A sum hands its gradient on, so additions cost nothing backward."""
    factor = _GRADIENT_BYTES[one.kind]
    return Pass(
        kind=one.kind, num_bytes=one.num_bytes * factor, launches=one.launches if factor else 0.0, cached=one.cached,
        backward=True, count=one.count,
    )  # fmt: skip


def _repeat(found: list[Operation], times: int) -> list[Operation]:
    if times == 1:
        return found
    return [type(one)(**{**vars(one), "count": one.count * times}) for one in found if not isinstance(one, Update)]
