import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bench import model
from bench.errors import UserError

# Published by others, exact; where is said in each file's `source`.
PUBLISHED = {
    "bloom-176b": 176_247_271_424,
    "chatglm2-6b": 6_243_584_000,
    "chatglm3-6b": 6_243_584_000,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_419_200,
    "falcon-7b": 6_921_720_704,
    "gemma-2-27b": 27_227_128_320,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-12b": 11_765_788_416,
    "gemma-3-1b": 999_885_952,
    "gemma-3-27b": 27_009_002_240,
    "gemma-3-4b": 3_880_099_328,
    "glm-4-9b": 9_399_951_360,
    "gpt-oss-120b": 116_829_156_672,
    "gpt-oss-20b": 20_914_757_184,
    "gpt2-1.5b": 1_557_611_200,
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "llama-1-13b": 13_015_864_320,
    "llama-1-33b": 32_528_943_616,
    "llama-1-65b": 65_285_660_672,
    "llama-1-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mixtral-8x22b": 140_630_071_296,
    "mixtral-8x7b": 46_702_792_704,
    "moss-moon-003": 16_717_980_160,
    "olmo-2-13b": 13_716_198_400,
    "olmo-2-32b": 32_234_279_936,
    "olmo-2-7b": 7_298_617_344,
    "olmo-3-32b": 32_233_522_176,
    "olmo-3-7b": 7_298_011_136,
    "opt-1.3b": 1_315_758_080,
    "opt-125m": 125_239_296,
    "phi-2": 2_779_683_840,
    "phi-3-mini": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "pythia-1.4b": 1_414_647_808,
    "pythia-12b": 11_846_072_320,
    "pythia-160m": 162_322_944,
    "pythia-6.9b": 6_857_302_016,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-72b": 72_706_203_648,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-14b": 14_768_307_200,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-32b": 32_762_123_264,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "tinyllama-1.1b": 1_100_048_384,
    "yi-34b": 34_388_917_248,
    "yi-6b": 6_061_035_520,
}

# Published rounded: a figure and how far from it the sum may lie, half of the figure's last digit where it is a count
# and wider where it is part of a name.
ROUNDED = {
    "baichuan2-7b": (7e9, 0.6e9),
    "baichuan2-13b": (13e9, 1e9),
    "falcon-40b": (40e9, 2e9),
    "gpt3-125m": (125e6, 0.5e6),
    "gpt3-350m": (356e6, 0.5e6),
    "gpt3-760m": (760e6, 0.5e6),
    "gpt3-1.3b": (1320e6, 5e6),
    "gpt3-2.7b": (2650e6, 5e6),
    "gpt3-6.7b": (6660e6, 5e6),
    "gpt3-13b": (12850e6, 5e6),
    "gpt3-175b": (174600e6, 50e6),
    "internlm-7b": (7e9, 0.5e9),
    "internlm-20b": (20e9, 0.5e9),
    "mpt-7b": (6.7e9, 0.06e9),
    "mpt-30b": (29.95e9, 0.01e9),
    "opt-6.7b": (6.7e9, 0.05e9),
    "opt-66b": (66e9, 0.5e9),
    "opt-175b": (175e9, 0.5e9),
    "pangu-alpha-2.6b": (2.6e9, 0.05e9),
    "pangu-alpha-13b": (13e9, 0.5e9),
    "pangu-alpha-200b": (200e9, 10e9),
}

# Parameters that a token passes, published rounded, and whether the figure counts the token table.
ACTIVE = {
    "mixtral-8x7b": (12.9e9, True),  # Jiang et al. 2024, table 2
    "mixtral-8x22b": (39e9, True),  # Mistral AI's announcement
    "qwen3-30b-a3b": (3.3e9, True),  # Qwen3 Technical Report
    "qwen3-235b-a22b": (22e9, True),
    "deepseek-v2-lite": (2.4e9, False),  # DeepSeek-V2, appendix B
    "deepseek-v3": (36.6e9, False),  # README_WEIGHTS.md: including the head
    "gpt-oss-20b": (3.6e9, False),  # openai/gpt-oss, README.md
    "gpt-oss-120b": (5.1e9, False),
}

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
QWEN2: dict[str, Any] = {
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


def write_config(folder: Path, config: dict[str, Any], name: str = "config.json") -> str:
    path = folder / name
    path.write_text(json.dumps(config))
    return str(path)


def write_toml(folder: Path, **changes: str | None) -> Path:
    """tiny.toml with keys set to other TOML, or taken away."""
    lines = (Path(model.__file__).parent.parent / "workloads/models/tiny.toml").read_text().splitlines()
    kept = [line for line in lines if line.partition(" ")[0] not in changes]
    added = [f"{key} = {value}" for key, value in changes.items() if value is not None]
    path = folder / "mine.toml"
    path.write_text("\n".join(kept + added))
    return path


def refusal(name_or_path: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        (model.read if str(name_or_path).endswith((".toml", ".json")) else model.find)(str(name_or_path))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_as_many_parameters_as_was_published(name: str) -> None:
    shape = model.find(name)
    assert shape.total_parameters == PUBLISHED[name] == shape.num_parameters


@pytest.mark.parametrize("name", ROUNDED)
def test_a_model_has_about_as_many_parameters_as_was_published_rounded(name: str) -> None:
    shape, (figure, within) = model.find(name), ROUNDED[name]
    assert shape.num_parameters is None, "an exact count belongs into PUBLISHED"
    assert abs(shape.total_parameters - figure) <= within


@pytest.mark.parametrize("name", [name for name in model.names() if model.find(name).num_experts])
def test_a_token_passes_about_as_many_parameters_as_was_published(name: str) -> None:
    shape, (figure, with_table) = model.find(name), ACTIVE[name]
    passed = shape.active_parameters - (0 if with_table else shape.embedding_parameters)
    assert passed == pytest.approx(figure, rel=0.025)


@pytest.mark.parametrize("name", model.names())
def test_each_model_says_where_its_figures_come_from(name: str) -> None:
    shape = model.find(name)
    assert shape.name == name
    assert "num_parameters" in shape.source or "defined here" in shape.source


def test_the_catalog_holds_what_was_published() -> None:
    assert not set(PUBLISHED) & set(ROUNDED)
    assert set(PUBLISHED) | set(ROUNDED) | {"tiny", "small"} == set(model.names())


@pytest.mark.parametrize("name", model.names())
def test_the_parts_add_up_to_the_whole(name: str) -> None:
    shape = model.find(name)
    parts = (
        shape.embedding_parameters,
        shape.attention_parameters,
        shape.mlp_parameters,
        shape.norm_parameters,
        shape.head_parameters,
    )
    assert sum(parts) == shape.total_parameters
    assert shape.matmul_parameters == shape.layer_matmul_parameters + shape.vocab_size * shape.hidden_size


def test_the_parts_of_gpt2_are_those_counted_by_hand() -> None:
    shape = model.find("gpt2-124m")
    assert shape.embedding_parameters == 50257 * 768 + 1024 * 768
    assert shape.attention_parameters == 12 * (4 * 768 * 768 + 4 * 768)
    assert shape.mlp_parameters == 12 * (2 * 768 * 3072 + 3072 + 768)
    assert shape.norm_parameters == 25 * 2 * 768
    assert shape.head_parameters == 0
    assert shape.layer_matmul_parameters == 12 * 12 * 768 * 768


def test_a_tied_head_is_no_parameter_but_a_product_all_the_same() -> None:
    shape = model.find("llama-3.2-1b")
    assert shape.head_parameters == 0
    assert shape.head_matmul_parameters == 128256 * 2048


def test_one_token_of_context_of_llama_8b_takes_128_kib() -> None:
    assert model.find("llama-3.1-8b").kv_cache_bytes_per_token(2) == 128 * 1024


def test_biases_count_where_the_shape_says_so() -> None:
    shape = model.find("qwen2.5-7b")
    without = dataclasses.replace(shape, attention_bias=(), num_parameters=None)
    assert shape.total_parameters - without.total_parameters == 28 * (3584 + 2 * 512)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llama-3.2-1b", LLAMA),
        ("qwen3-8b", QWEN3),
        ("qwen2.5-7b", QWEN2),
        ("mistral-7b-v0.3", MISTRAL),
        ("gpt2-124m", GPT2),
    ],
)
def test_a_config_json_gives_the_shape_in_the_catalog(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    ours = model.find(name)
    theirs = model.read(write_config(tmp_path, config))
    assert dataclasses.replace(theirs, name=ours.name, source=ours.source, num_parameters=ours.num_parameters) == ours


def test_a_config_json_is_not_named_after_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "alice"
    folder.mkdir()
    assert model.read(write_config(folder, LLAMA)).name == "llama-1.24b"
    assert model.read(write_config(folder, LLAMA, "my-model.json")).name == "my-model"


def test_what_a_config_json_may_leave_out_is_filled_in(tmp_path: Path) -> None:
    short = {key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "head_dim", "rope_theta")}
    shape = model.read(write_config(tmp_path, short))
    assert (shape.num_key_value_heads, shape.head_dim, shape.rope_theta) == (32, 64, 10000.0)
    biased = model.read(write_config(tmp_path, LLAMA | {"attention_bias": True, "mlp_bias": True}))
    assert biased.attention_bias == ("qkv", "o")
    assert biased.mlp_bias


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({}, "model_type is None"),
        ({"model_type": ["llama"]}, "one of gpt2, llama, mistral, qwen2, qwen3"),
        ({key: value for key, value in LLAMA.items() if key != "hidden_size"}, "'hidden_size' is missing"),
        ({key: value for key, value in QWEN3.items() if key != "head_dim"}, "'head_dim' is missing"),
        (LLAMA | {"hidden_size": "2048"}, "hidden_size is '2048'"),
        (LLAMA | {"hidden_size": 10**400}, "hidden_size is 1000"),
        (LLAMA | {"rms_norm_eps": float("nan")}, "norm_eps is nan"),
        (LLAMA | {"hidden_act": "tanh"}, "silu or geglu or gelu or relu"),
        (LLAMA | {"head_dim": None, "num_attention_heads": 30}, "a multiple of num_attention_heads"),
        (LLAMA | {"num_key_value_heads": 5}, "a divisor of num_attention_heads"),
        (GPT2 | {"activation_function": "tanh"}, "hidden_act is 'tanh'"),
        (GPT2 | {"n_embd": {}}, "a multiple of n_head"),
        (MISTRAL | {"sliding_window": 4096}, "sliding_window is 4096"),
        (QWEN3 | {"use_sliding_window": True, "sliding_window": 4096}, "only full attention"),
        (QWEN3 | {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ],
)
def test_a_config_json_that_cannot_be_read_is_refused(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refusal(write_config(tmp_path, config))


@pytest.mark.parametrize("text", ["", "{", "[1]", '"llama"', "nul", "[" * 100_000])
def test_a_file_that_is_no_object_of_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert "config.json" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hiden_size": "256"}, "did you mean hidden_size"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"hidden_size": "0"}, "hidden_size is 0"),
        ({"hidden_size": "true"}, "hidden_size is True"),
        ({"hidden_size": "256.0"}, "hidden_size is 256.0"),
        ({"num_hidden_layers": "-2"}, "num_hidden_layers is -2"),
        ({"norm_eps": "nan"}, "norm_eps is nan"),
        ({"norm_eps": '"1e-5"'}, "norm_eps is '1e-5'"),
        ({"mlp_bias": "1"}, "true or false"),
        ({"hidden_act": '"tanh"'}, "silu or geglu or gelu or relu"),
        ({"position": '"learned"'}, "rope_theta is 10000.0"),
        ({"rope_theta": None}, "rope_theta is missing"),
        ({"head_dim": "63"}, "head_dim is 63"),
        ({"attention_bias": '["kv"]'}, "a list of qkv and o"),
        ({"attention_bias": "[[1]]"}, "a list of qkv and o"),
        ({"attention_bias": "true"}, "a list of qkv and o"),
        ({"num_key_value_heads": "3"}, "a divisor of num_attention_heads, which is 4"),
        ({"num_key_value_heads": "8"}, "a divisor of num_attention_heads, which is 4"),
        ({"num_parameters": "1_000_000"}, "1836288"),
        ({"source": '" "'}, "source is ' '"),
    ],
)
def test_a_toml_that_says_something_impossible_is_refused(
    changes: dict[str, str | None], said: str, tmp_path: Path
) -> None:
    message = refusal(write_toml(tmp_path, **changes))
    assert "mine.toml" in message
    assert said in message


def test_a_model_that_nobody_published_needs_no_count(tmp_path: Path) -> None:
    shape = model.read(str(write_toml(tmp_path, num_parameters=None, hidden_size="512")))
    assert shape.name == "mine"
    assert shape.num_parameters is None
    assert shape.total_parameters > 1_836_288


def test_malformed_toml_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(b"hidden_size = \n")
    assert "not valid TOML" in refusal(path)
    path.write_bytes(b"\xff\xfe")
    assert "not valid TOML" in refusal(path)
    assert "No such file" in refusal(tmp_path / "absent.toml")


def test_an_unknown_name_brings_the_near_ones_and_how_to_list_them() -> None:
    assert "llama-3.2-1b" in refusal("llama-3.2")
    assert "qwen3-8b" in refusal("Qwen3-8B")
    assert "accelmark list models" in refusal("nothing like it")
    assert "accelmark list models" in refusal("")
