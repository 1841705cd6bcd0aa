import dataclasses
from pathlib import Path

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
    "mixtral-8x7b": (12.9e9, True),  # Mistral AI's announcement; Jiang et al. 2024 round to 13B
    "mixtral-8x22b": (39e9, True),  # Mistral AI's announcement
    "qwen3-30b-a3b": (3.3e9, True),  # Qwen3 Technical Report
    "qwen3-235b-a22b": (22e9, True),
    "deepseek-v2-lite": (2.4e9, False),  # DeepSeek-V2, appendix B
    "deepseek-v3": (36.6e9, False),  # README_WEIGHTS.md as first published: including the head
    "gpt-oss-20b": (3.6e9, False),  # openai/gpt-oss, README.md
    "gpt-oss-120b": (5.1e9, False),
}


# Changes to tiny.toml that give it experts, and latent attention.
EXPERTS = {"num_experts": "8", "num_experts_per_tok": "2", "moe_intermediate_size": "256", "num_parameters": None}
LATENT = {
    "kv_lora_rank": "64",
    "qk_nope_head_dim": "32",
    "qk_rope_head_dim": "16",
    "v_head_dim": "32",
    "head_dim": "48",
    "num_key_value_heads": "4",
    "num_parameters": None,
}


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


@pytest.mark.parametrize(
    "name", [name for name in model.names() if model.find(name).num_experts and name != "tiny-moe"]
)
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
    assert set(PUBLISHED) | set(ROUNDED) | {"tiny", "tiny-moe", "small"} == set(model.names())


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


def test_the_parts_of_mixtral_are_those_counted_by_hand() -> None:
    shape = model.find("mixtral-8x7b")
    expert = 3 * 4096 * 14336
    attention = 2 * 4096 * 4096 + 2 * 4096 * 1024
    assert shape.mlp_parameters == 32 * (8 * expert + 4096 * 8)
    assert shape.layer_matmul_parameters == 32 * (attention + 2 * expert + 4096 * 8)
    assert shape.total_parameters - shape.active_parameters == 32 * 6 * expert


def test_the_parts_of_deepseek_v3_are_those_counted_by_hand() -> None:
    shape = model.find("deepseek-v3")
    queries = 7168 * 1536 + 1536 * 128 * (128 + 64)
    keys_and_values = 7168 * (512 + 64) + 512 * 128 * (128 + 128)
    assert shape.attention_parameters == 61 * (queries + keys_and_values + 128 * 128 * 7168)
    assert shape.norm_parameters == 61 * (2 * 7168 + 1536 + 512) + 7168
    expert, dense = 3 * 7168 * 2048, 3 * 7168 * 18432
    assert shape.mlp_parameters == 3 * dense + 58 * (257 * expert + 7168 * 256 + 256)
    assert shape.kv_cache_bytes_per_token(2) == 61 * (512 + 64) * 2
    assert [shape.is_dense(layer) for layer in (0, 2, 3, 60)] == [True, True, False, False]


def test_a_bias_of_gpt_oss_counts_for_every_expert_router_and_head() -> None:
    shape = model.find("gpt-oss-20b")
    without = dataclasses.replace(
        shape, attention_bias=(), mlp_bias=False, router_bias=False, attention_sinks=False, num_parameters=None
    )
    layer = (64 + 2 * 8) * 64 + 2880 + 64 + 32 * (3 * 2880 + 1)
    assert shape.total_parameters - without.total_parameters == 24 * layer


@pytest.mark.parametrize(("name", "norms"), [("falcon-7b", 1), ("falcon-40b", 2), ("gpt2-124m", 2)])
def test_a_parallel_block_has_one_norm_or_two(name: str, norms: int) -> None:
    shape = model.find(name)
    assert shape.norm_parameters == (norms * shape.num_hidden_layers + 1) * 2 * shape.hidden_size


def test_norms_count_by_their_place_and_kind() -> None:
    assert model.find("gemma-2-2b").norm_parameters == (4 * 26 + 1) * 2304
    assert model.find("olmo-2-7b").norm_parameters == (2 * 32 + 1) * 4096 + 32 * (4096 + 4096)
    assert model.find("mpt-7b").norm_parameters == (2 * 32 + 1) * 4096
    assert model.find("bloom-176b").norm_parameters == (2 * 70 + 2) * 2 * 14336


def test_alibi_needs_no_table_and_an_offset_needs_more_rows() -> None:
    assert model.find("bloom-176b").embedding_parameters == 250880 * 14336
    assert model.find("opt-125m").embedding_parameters == (50272 + 2048 + 2) * 768


def test_a_query_layer_is_one_more_layer_with_a_table_of_queries() -> None:
    shape = model.find("pangu-alpha-2.6b")
    without = dataclasses.replace(shape, query_layer=False)
    layer = 12 * 2560**2 + 13 * 2560
    assert shape.total_parameters - without.total_parameters == layer + 1024 * 2560
    assert shape.layer_matmul_parameters - without.layer_matmul_parameters == 12 * 2560**2
    assert shape.attention_flops(1, 100) * 31 == without.attention_flops(1, 100) * 32
    assert shape.kv_cache_bytes(2, 100) * 31 == without.kv_cache_bytes(2, 100) * 32


@pytest.mark.parametrize("name", model.names())
@pytest.mark.parametrize("seq", [1, 7, 513])
def test_attended_pairs_are_those_counted_one_by_one(name: str, seq: int) -> None:
    shape = model.find(name)
    pairs = 0
    for layer in range(shape.num_hidden_layers + shape.query_layer):
        window = shape.sliding_window if shape.is_windowed(layer) else seq
        assert window is not None
        pairs += sum(min(position + 1, window) for position in range(seq))
    assert shape.attended_pairs(seq) == pairs
    widths = shape.head_dim + (shape.v_head_dim or shape.head_dim)
    assert shape.attention_flops(3, seq) == 3 * 2 * shape.num_attention_heads * widths * pairs


@pytest.mark.parametrize("name", model.names())
def test_decoding_a_sequence_costs_what_its_prefill_costs(name: str) -> None:
    shape = model.find(name)
    one_by_one = sum(shape.decode_attention_flops(2, context) for context in range(300))
    assert one_by_one == shape.attention_flops(2, 300)


def test_a_window_bounds_the_cache_of_its_layers() -> None:
    shape = model.find("gemma-3-4b")
    each = 2 * 4 * 256 * 2
    assert shape.num_windowed_layers == 29
    assert [shape.is_windowed(layer) for layer in (0, 4, 5, 6, 33)] == [True, True, False, True, True]
    assert shape.kv_cache_bytes(2, 1000) == 34 * 1000 * each == 1000 * shape.kv_cache_bytes_per_token(2)
    assert shape.kv_cache_bytes(2, 10_000) == (29 * 1024 + 5 * 10_000) * each
    assert model.find("mistral-7b-v0.1").kv_cache_bytes(2, 10_000) == 32 * 4096 * 2 * 8 * 128 * 2


def test_a_full_layer_attends_to_half_of_the_square() -> None:
    shape = model.find("llama-3.1-8b")
    assert shape.attention_flops(1, 4096) == 4 * 32 * 128 * 32 * 4096 * 4097 // 2
    assert shape.decode_attention_flops(1, 4095) == 4 * 32 * 128 * 32 * 4096


def test_expected_experts_are_those_of_one_token_and_then_all() -> None:
    shape = model.find("qwen3-30b-a3b")
    assert shape.expected_experts_read(1) == pytest.approx(8)
    assert shape.expected_experts_read(2) == pytest.approx(8 + 8 * 120 / 128)
    assert shape.expected_experts_read(10_000) == pytest.approx(128)
    assert model.find("tiny").expected_experts_read(5) == 0


@pytest.mark.parametrize("name", model.names())
def test_fewer_layers_are_the_first_ones(name: str) -> None:
    shape = model.find(name)
    for num_layers in {1, shape.num_hidden_layers // 2, shape.num_hidden_layers}:
        cut = shape.with_layers(num_layers)
        assert (cut.name, cut.num_hidden_layers, cut.num_parameters) == (name, num_layers, None)
        for layer in range(num_layers):
            assert cut.is_windowed(layer) == shape.is_windowed(layer)
            assert cut.is_dense(layer) == shape.is_dense(layer)
    assert cut.total_parameters <= shape.total_parameters
    for num_layers in (0, -1, shape.num_hidden_layers + 1):
        with pytest.raises(UserError, match=f"has {shape.num_hidden_layers} layers, {num_layers} were asked for"):
            shape.with_layers(num_layers)


@pytest.mark.parametrize("name", model.names())
def test_a_model_written_as_toml_is_read_as_the_same_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.toml"
    path.write_text(model.text(model.find(name)))
    assert model.load(path) == model.find(name)


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
        ({"norm_place": '"middle"'}, "pre or post or both"),
        (
            {"block": '"parallel"', "norm_place": '"post"'},
            "norm_place is 'post', it must be pre where block is parallel",
        ),
        ({"position": '"alibi"'}, "rope_theta is 10000.0, it must be left out where position is alibi"),
        ({"rotary_dim": "31"}, "rotary_dim is 31, it must be even and at most head_dim, which is 64"),
        ({"rotary_dim": "66"}, "rotary_dim is 66, it must be even and at most head_dim, which is 64"),
        ({"rope_local_theta": "1e4"}, "left out without sliding_window"),
        ({"position_offset": "2"}, "left out where position is rope"),
        ({"sliding_window": "0"}, "sliding_window is 0"),
        ({"full_attention_every": "2"}, "left out without sliding_window"),
        ({"sliding_window": "64", "full_attention_every": "1"}, "with 1 no layer has a window"),
        ({"attention_softcap": "-50.0"}, "attention_softcap is -50.0"),
        ({"num_experts": "8"}, "num_experts_per_tok is missing, it must be given with num_experts"),
        ({"num_experts_per_tok": "2"}, "num_experts is missing, it must be given with num_experts_per_tok"),
        ({"router_bias": "true"}, "left out without num_experts"),
        ({"router": '"sigmoid"'}, "left out without num_experts"),
        ({"num_dense_layers": "1"}, "left out without num_experts"),
        (EXPERTS | {"num_experts_per_tok": "9"}, "at most num_experts, which is 8"),
        (EXPERTS | {"num_dense_layers": "3"}, "at most num_hidden_layers, which is 2"),
        ({"kv_lora_rank": "64"}, "qk_nope_head_dim is missing, it must be given with kv_lora_rank"),
        ({"q_lora_rank": "64"}, "left out without kv_lora_rank"),
        (LATENT | {"head_dim": "64"}, "qk_nope_head_dim + qk_rope_head_dim, which is 48"),
        (LATENT | {"num_key_value_heads": "2"}, "num_attention_heads, 4, with kv_lora_rank"),
        (LATENT | {"qk_norm": '"head"'}, "left out with kv_lora_rank"),
        (LATENT | {"attention_bias": '["o"]'}, "left out with kv_lora_rank"),
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


@pytest.mark.parametrize("changes", [EXPERTS, LATENT, {"hidden_act": '"geglu"'}, {"qk_norm": '"none"'}])
def test_a_toml_that_says_something_possible_is_read(changes: dict[str, str | None], tmp_path: Path) -> None:
    assert model.read(str(write_toml(tmp_path, **changes))).name == "mine"


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
