from collections import Counter
from pathlib import Path

import pytest

from bench import chip
from bench.chip import Chip
from bench.errors import UserError

CHIPS = [chip.find(name) for name in chip.names()]

GOOD = """
driver_names = ["Some Chip 1"]
vendor = "Some"
architecture = "First"
memory_bytes = 8_589_934_592
memory_bytes_per_s = 1e12

[flops_per_s]
bf16 = 1e14

[sources]
driver_names = "a log"
memory_bytes = "a sheet"
memory_bytes_per_s = "a sheet"
bf16 = "a sheet"
"""


def refusal(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        chip.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "mine.toml" in message
    return message


def ids(one: Chip) -> str:
    return one.name


@pytest.mark.parametrize("one", CHIPS, ids=ids)
def test_each_chip_is_found_by_each_of_its_names(one: Chip) -> None:
    for driver_name in one.driver_names:
        assert chip.match(driver_name) == one


@pytest.mark.parametrize("one", CHIPS, ids=ids)
def test_each_figure_has_a_source(one: Chip) -> None:
    figures = ["driver_names", "memory_bytes", "memory_bytes_per_s", *one.flops_per_s]
    figures += ["power_w"] if one.power_w is not None else []
    figures += ["link_bytes_per_s"] if one.link_bytes_per_s is not None else []
    for figure in figures:
        source = one.sources.get(figure) or (one.sources["flops_per_s"] if figure in chip.DTYPES else "")
        assert len(source) > 10, figure


@pytest.mark.parametrize("one", CHIPS, ids=ids)
def test_figures_are_of_a_chip_and_in_si_units(one: Chip) -> None:
    """Catches what a slip of units, or a figure for a whole node, would make."""
    assert one.memory_bytes % 2**30 == 0
    assert 8 * 2**30 <= one.memory_bytes <= 512 * 2**30
    assert 1e11 < one.memory_bytes_per_s < 2e13
    assert all(1e12 < rate < 2e16 for rate in one.flops_per_s.values())
    assert one.power_w is None or 50 <= one.power_w <= 1500
    assert one.link_bytes_per_s is None or 1e10 < one.link_bytes_per_s < one.memory_bytes_per_s


@pytest.mark.parametrize("one", CHIPS, ids=ids)
def test_rates_are_dense_and_keep_their_ratios(one: Chip) -> None:
    """A figure with sparsity beside one without would break a ratio, for every one of these comes in steps of two."""
    rates = one.flops_per_s
    if {"bf16", "fp16"} <= rates.keys():
        assert rates["bf16"] == rates["fp16"]
    for narrow, wide in (("fp8", "bf16"), ("bf16", "tf32"), ("fp8", "fp16")):
        if {narrow, wide} <= rates.keys():
            assert rates[narrow] / rates[wide] == pytest.approx(2, rel=0.03)
    if {"fp4", "fp8"} <= rates.keys():
        assert rates["fp4"] / rates["fp8"] == pytest.approx(2, rel=0.03) or one.name == "rtx-5090"  # 4 there


def test_no_driver_name_is_in_two_files() -> None:
    counts = Counter(name for one in CHIPS for name in one.driver_names)
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40"),
        ("NVIDIA H200", "h200-sxm"),
    ],
)
def test_parts_of_one_family_are_told_apart(driver_name: str, name: str) -> None:
    found = chip.match(driver_name)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "driver_name",
    [
        "NVIDIA L40",
        "nvidia l40s",
        "NVIDIA L40S ",
        "L40S",
        "NVIDIA H100",
        "NVIDIA H200 NVL",
        "NVIDIA A10G",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "AMD Instinct MI250X / MI250",
        "GRID A100-4C",
        "",
    ],
)
def test_nothing_but_the_exact_name_matches(driver_name: str) -> None:
    assert chip.match(driver_name) is None


@pytest.mark.parametrize(
    ("name", "dtype", "rate"),
    [
        ("h100-sxm", "bf16", 989.4e12),  # the sheet's headline, with sparsity, is 1,979
        ("h100-pcie", "bf16", 756e12),
        ("h100-nvl", "bf16", 835.5e12),
        ("a100-sxm-80", "bf16", 312e12),
        ("l4", "bf16", 121e12),
        ("b200", "bf16", 2250e12),
        ("rtx-4090", "bf16", 165.2e12),  # 330.3 when summed in FP16
        ("rtx-3090", "fp16", 71.2e12),
        ("mi250x", "bf16", 191.5e12),  # one of two dies
        ("mi300x", "fp8", 2614.9e12),
    ],
)
def test_traps_of_peak_tables_are_avoided(name: str, dtype: str, rate: float) -> None:
    assert chip.find(name).flops_per_s[dtype] == rate


def test_a_peak_is_found_by_the_name_that_torch_uses() -> None:
    h100 = chip.find("h100-sxm")
    assert h100.peak_flops_per_s("bfloat16") == h100.peak_flops_per_s("bf16") == 989.4e12
    assert h100.peak_flops_per_s("float32") == 66.9e12
    assert h100.peak_flops_per_s("float4_e2m1fn_x2") is None
    assert chip.find("t4").peak_flops_per_s("bfloat16") is None


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    mine = chip.find(str(path))
    assert mine.name == "mine"
    assert mine.power_w is None
    assert len({mine, mine}) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("vendor =", "vendr =", "did you mean vendor"),
        ('vendor = "Some"', "", "'vendor' is missing"),
        ("8_589_934_592", "8.5e9", "memory_bytes is 8500000000.0"),
        ("memory_bytes_per_s = 1e12", "memory_bytes_per_s = 0", "memory_bytes_per_s is 0"),
        ("memory_bytes_per_s = 1e12", "memory_bytes_per_s = true", "memory_bytes_per_s is True"),
        ("bf16 = 1e14", "bf16 = inf", "a table of numbers above 0"),
        ("bf16 = 1e14", "bfloat16 = 1e14", "keys among fp64, fp32, tf32, bf16"),
        ("bf16 = 1e14", "bf16 = 1e14\nfp8 = 2e14", "sources has no key 'fp8'"),
        ('bf16 = "a sheet"', 'bf16 = "a sheet"\nfp8 = "a sheet"', "sources has the key 'fp8'"),
        ('memory_bytes = "a sheet"', 'memory_bytes = ""', "texts that are not empty"),
        ('["Some Chip 1"]', "[]", "driver_names is ()"),
        ('["Some Chip 1"]', '"Some Chip 1"', "driver_names is 'Some Chip 1'"),
        ('["Some Chip 1"]', "[[1]]", "driver_names is ([1],)"),
        ('vendor = "Some"', "vendor = ", "not valid TOML"),
        ('vendor = "Some"', 'vendor = "Some"\npower_w = "700"', "power_w is '700'"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert GOOD.count(old) == 1
    assert said in refusal(tmp_path, GOOD.replace(old, new))


def test_an_unknown_name_brings_the_near_ones_and_how_to_list_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"h100-nvl or h100-pcie or h100-sxm.*accelmark list chips"):
        chip.find("H100")
    with pytest.raises(UserError, match="accelmark list chips"):
        chip.find("nothing like it")
    with pytest.raises(UserError, match="No such file"):
        chip.find(str(tmp_path / "absent.toml"))
