import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import huggingface, model
from bench.errors import UserError

CONVERT = Path(model.__file__).parent.parent / "scripts" / "convert_model"

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "attention_bias": False,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "rope_type": "llama3"},
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
MISTRAL: dict[str, Any] = {
    "model_type": "mistral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "vocab_size": 32768,
}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-05,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}
GEMMA2: dict[str, Any] = {
    "model_type": "gemma2",
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "vocab_size": 256000,
}
DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v2",
    "attention_bias": False,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 1408,
    "moe_layer_freq": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"factor": 40, "type": "yarn"},
    "rope_theta": 10000,
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "v_head_dim": 128,
    "vocab_size": 102400,
}
CHATGLM: dict[str, Any] = {
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 32768,
    "tie_word_embeddings": False,
}
BLOOM: dict[str, Any] = {
    "model_type": "bloom",
    "apply_residual_connection_post_layernorm": False,
    "hidden_size": 14336,
    "layer_norm_epsilon": 1e-05,
    "n_head": 112,
    "n_layer": 70,
    "seq_length": 2048,
    "vocab_size": 250880,
}
MPT: dict[str, Any] = {
    "model_type": "mpt",
    "attn_config": {"alibi": True, "attn_type": "multihead_attention", "qk_ln": False},
    "d_model": 4096,
    "expansion_ratio": 4,
    "max_seq_len": 2048,
    "n_heads": 32,
    "n_layers": 32,
    "no_bias": True,
    "vocab_size": 50432,
}
FALCON: dict[str, Any] = {
    "model_type": "falcon",
    "alibi": False,
    "bias": False,
    "hidden_size": 4544,
    "layer_norm_epsilon": 1e-05,
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "parallel_attn": True,
    "vocab_size": 65024,
}
ONE_IN_FOUR = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


# A config.json for each architecture, as it was published, and the model of the catalog that it is.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": LLAMA,
    "qwen3-8b": QWEN3,
    "mistral-7b-v0.3": MISTRAL,
    "mistral-7b-v0.1": MISTRAL | {"sliding_window": 4096, "rope_theta": 10000.0, "vocab_size": 32000},
    "gpt2-124m": GPT2,
    "gemma-2-2b": GEMMA2,
    "deepseek-v2-lite": DEEPSEEK,
    "chatglm2-6b": CHATGLM,
    "bloom-176b": BLOOM,
    "mpt-7b": MPT,
    "falcon-7b": FALCON,
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_position_embeddings": 131072,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 152064,
    },
    "mixtral-8x7b": MISTRAL
    | {"model_type": "mixtral", "num_experts_per_tok": 2, "num_local_experts": 8, "vocab_size": 32000},
    "qwen3-30b-a3b": QWEN3
    | {
        "model_type": "qwen3_moe",
        "decoder_sparse_step": 1,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
    },
    "gemma-3-1b": without(GEMMA2, "attn_logit_softcapping", "final_logit_softcapping")
    | {
        "model_type": "gemma3_text",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "rope_local_base_freq": 10000,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    "phi-2": {
        "model_type": "phi",
        "hidden_act": "gelu_new",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "partial_rotary_factor": 0.4,
        "qk_layernorm": False,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": 51200,
    },
    "phi-3-mini": {
        "model_type": "phi3",
        "hidden_act": "silu",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 2047,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
    "olmo-2-7b": {
        "model_type": "olmo2",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-06,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "vocab_size": 100352,
    },
    "olmo-3-7b": {
        "model_type": "olmo3",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "layer_types": ONE_IN_FOUR * 8,
        "max_position_embeddings": 65536,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-06,
        "rope_theta": 500000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 100278,
    },
    "pythia-1.4b": {
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "vocab_size": 50304,
    },
    "opt-1.3b": {
        "model_type": "opt",
        "activation_function": "relu",
        "do_layer_norm_before": True,
        "ffn_dim": 8192,
        "hidden_size": 2048,
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 24,
        "vocab_size": 50272,
        "word_embed_proj_dim": 2048,
    },
    "falcon-40b": FALCON
    | {
        "hidden_size": 8192,
        "new_decoder_architecture": True,
        "num_attention_heads": 128,
        "num_hidden_layers": 60,
        "num_kv_heads": 8,
    },
    "deepseek-v3": DEEPSEEK
    | {
        "model_type": "deepseek_v3",
        "first_k_dense_replace": 3,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "vocab_size": 129280,
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss",
        "attention_bias": True,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
        "max_position_embeddings": 131072,
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "rms_norm_eps": 1e-05,
        "rope_theta": 150000,
        "sliding_window": 128,
        "tie_word_embeddings": False,
        "vocab_size": 201088,
    },
    "moss-moon-003": GPT2
    | {
        "model_type": "moss",
        "n_embd": 6144,
        "n_head": 24,
        "n_layer": 34,
        "n_positions": 2048,
        "rotary_dim": 64,
        "tie_word_embeddings": False,
        "vocab_size": 107008,
    },
    "glm-4-9b": CHATGLM
    | {
        "layernorm_epsilon": 1.5625e-07,
        "num_layers": 40,
        "padded_vocab_size": 151552,
        "rope_ratio": 500,
        "seq_length": 131072,
    },
    "baichuan2-7b": {
        "model_type": "baichuan",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
        "model_max_length": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "vocab_size": 125696,
    },
    "baichuan2-13b": {
        "model_type": "baichuan",
        "hidden_act": "silu",
        "hidden_size": 5120,
        "intermediate_size": 13696,
        "model_max_length": 4096,
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "vocab_size": 125696,
    },
    "internlm-7b": {
        "model_type": "internlm",
        "bias": True,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "vocab_size": 103168,
    },
}
CODEGEN = CONFIGS["moss-moon-003"] | {"model_type": "codegen", "vocab_size": 51200}


def write(folder: Path, config: dict[str, Any], name: str = "config.json") -> str:
    path = folder / name
    path.write_text(json.dumps(config))
    return str(path)


def refusal(path: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        model.read(str(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_each_architecture_that_can_be_read_is_tried_here() -> None:
    assert {config["model_type"] for config in [*CONFIGS.values(), CODEGEN]} == set(huggingface.ARCHITECTURES)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_json_gives_the_shape_in_the_catalog(name: str, tmp_path: Path) -> None:
    ours = model.find(name)
    theirs = model.read(write(tmp_path, CONFIGS[name]))
    assert dataclasses.replace(theirs, name=ours.name, source=ours.source, num_parameters=ours.num_parameters) == ours


def test_a_config_json_is_not_named_after_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "alice"
    folder.mkdir()
    assert model.read(write(folder, LLAMA)).name == "llama-1.24b"
    assert model.read(write(folder, LLAMA, "my-model.json")).name == "my-model"


def test_what_a_config_json_may_leave_out_is_filled_in(tmp_path: Path) -> None:
    shape = model.read(write(tmp_path, without(LLAMA, "num_key_value_heads", "head_dim", "rope_theta")))
    assert (shape.num_key_value_heads, shape.head_dim, shape.rope_theta) == (32, 64, 10000.0)
    biased = model.read(write(tmp_path, LLAMA | {"attention_bias": True, "mlp_bias": True}))
    assert biased.attention_bias == ("qkv", "o")
    assert biased.mlp_bias


def test_a_gated_gelu_has_three_matrices(tmp_path: Path) -> None:
    assert model.read(write(tmp_path, LLAMA | {"hidden_act": "gelu"})).num_mlp_matrices == 3
    assert model.read(write(tmp_path, GPT2)).num_mlp_matrices == 2


def test_a_window_as_wide_as_the_longest_sequence_is_none(tmp_path: Path) -> None:
    assert model.read(write(tmp_path, MISTRAL | {"sliding_window": 32768})).sliding_window is None
    assert model.read(write(tmp_path, MISTRAL | {"sliding_window": 32767})).sliding_window == 32767


def test_layer_types_say_where_the_windows_are(tmp_path: Path) -> None:
    windowed = QWEN3 | {"use_sliding_window": True, "sliding_window": 4096}
    every_fourth = model.read(write(tmp_path, windowed | {"layer_types": ONE_IN_FOUR * 9}))
    assert (every_fourth.sliding_window, every_fourth.full_attention_every) == (4096, 4)
    everywhere = model.read(write(tmp_path, windowed | {"layer_types": ["sliding_attention"] * 36}))
    assert (everywhere.sliding_window, everywhere.full_attention_every) == (4096, None)
    nowhere = model.read(write(tmp_path, windowed | {"layer_types": ["full_attention"] * 36}))
    assert nowhere.sliding_window is None


def test_the_theta_of_each_kind_of_layers_is_read_from_where_transformers_5_keeps_it(tmp_path: Path) -> None:
    older = CONFIGS["gemma-3-1b"]
    ropes = {"full_attention": {"rope_theta": 1000000}, "sliding_attention": {"rope_theta": 20000}}
    shape = model.read(
        write(tmp_path, without(older, "rope_theta", "rope_local_base_freq") | {"rope_parameters": ropes})
    )
    assert (shape.rope_theta, shape.rope_local_theta) == (1000000, 20000)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({}, "model_type is None"),
        ({"model_type": ["llama"]}, "one of gpt2, llama, mistral, mixtral, qwen2, qwen3"),
        (without(LLAMA, "hidden_size"), "'hidden_size' is missing"),
        (without(QWEN3, "head_dim"), "'head_dim' is missing"),
        (LLAMA | {"hidden_size": "2048"}, "hidden_size is '2048'"),
        (LLAMA | {"hidden_size": 10**400}, "hidden_size is 1000"),
        (LLAMA | {"rms_norm_eps": float("nan")}, "norm_eps is nan"),
        (LLAMA | {"hidden_act": "tanh"}, "silu or geglu or gelu or relu"),
        (LLAMA | {"hidden_act": "relu"}, "hidden_act is 'gated relu'"),
        (LLAMA | {"head_dim": None, "num_attention_heads": 30}, "a multiple of num_attention_heads"),
        (LLAMA | {"num_key_value_heads": 5}, "a divisor of num_attention_heads"),
        (GPT2 | {"activation_function": "tanh"}, "hidden_act is 'tanh'"),
        (GPT2 | {"activation_function": "silu"}, "hidden_act is 'ungated silu'"),
        (GPT2 | {"n_embd": {}}, "a multiple of n_head"),
        (QWEN3 | {"use_sliding_window": True, "sliding_window": 4096}, "max_window_layers is 28"),
        (QWEN3 | {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has full_attention"),
        (QWEN3 | {"layer_types": ["linear_attention"]}, "layer_types has"),
        (QWEN3 | {"layer_types": ["sliding_attention"] * 36}, "sliding_window is missing"),
        (CONFIGS["qwen3-30b-a3b"] | {"decoder_sparse_step": 2}, "decoder_sparse_step is 2, only 1 can be read"),
        (CONFIGS["qwen3-30b-a3b"] | {"mlp_only_layers": [5]}, "mlp_only_layers is [5]"),
        (CONFIGS["mixtral-8x7b"] | {"num_experts_per_tok": 9}, "at most num_experts, which is 8"),
        (CONFIGS["opt-1.3b"] | {"word_embed_proj_dim": 512}, "word_embed_proj_dim is 512"),
        (CONFIGS["phi-2"] | {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5"),
        (DEEPSEEK | {"attention_bias": True}, "left out with kv_lora_rank"),
        (MPT | {"attn_config": {"alibi": False}}, "alibi is False, only True can be read"),
        (CHATGLM | {"rmsnorm": False}, "rmsnorm is False"),
    ],
)
def test_a_config_json_that_cannot_be_read_is_refused(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refusal(write(tmp_path, config))


@pytest.mark.parametrize("config", [*CONFIGS.values(), CODEGEN], ids=[*CONFIGS, "codegen"])
def test_whatever_a_key_holds_the_answer_is_a_model_or_one_line(config: dict[str, Any], tmp_path: Path) -> None:
    for key in config:
        for value in (None, "x", -1, 0, 3, 0.5, 10**400, True, {}, [], [1], {"alibi": 1}):
            try:
                model.read(write(tmp_path, config | {key: value}))
            except UserError as error:
                assert "\n" not in str(error)  # noqa: PT017, either is right


@pytest.mark.parametrize("text", ["", "{", "[1]", '"llama"', "nul", "[" * 100_000])
def test_a_file_that_is_no_object_of_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert "config.json" in refusal(path)


def convert(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(CONVERT), *arguments], capture_output=True, text=True, check=False)


def test_a_converted_config_json_is_read_as_the_same_model(tmp_path: Path) -> None:
    config, out = write(tmp_path, DEEPSEEK), tmp_path / "mine.toml"
    assert convert(config, str(out)).returncode == 0
    assert "# To do: name in `source`" in out.read_text()
    assert "15_706_484_224" in out.read_text()
    assert model.load(out) == dataclasses.replace(model.read(config), name="mine")
    assert convert(config).stdout == out.read_text()


def test_what_cannot_be_converted_is_refused_in_one_line(tmp_path: Path) -> None:
    config, out = write(tmp_path, LLAMA), tmp_path / "mine.toml"
    out.write_text("mine")
    for arguments, said in [
        ((write(tmp_path, {"model_type": "bert"}, "bert.json"),), "model_type is 'bert'"),
        ((str(out),), "a config.json is asked for"),
        ((config, str(out)), "File exists"),
    ]:
        done = convert(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert said in done.stderr
    assert out.read_text() == "mine"
