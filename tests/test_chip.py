import csv
from collections import Counter
from pathlib import Path

import pytest

from bench import chip
from bench.chip import Chip
from bench.errors import UserError

CHIPS = [chip.find(name) for name in chip.names()]

PUBLISHED = Path(__file__).parent.parent / "results" / "published"

# How many times as fast as the wider type the narrower one is, with the parts that are an exception to it.
RATIOS: dict[tuple[str, str], tuple[float, dict[str, float]]] = {
    ("bf16", "tf32"): (2, dict.fromkeys(("inferentia2", "trainium1", "trainium2", "trainium3"), 1)),
    ("fp16", "bf16"): (1, {"mi100": 2}),
    ("fp8", "bf16"): (
        2,
        dict.fromkeys(("gaudi3", "inferentia2", "tpu-v5p", "tpu-v6e", "trainium1"), 1) | {"trainium3": 3.75},
    ),
    ("fp4", "fp8"): (
        2,
        dict.fromkeys(("rtx-5070-ti", "rtx-5080", "rtx-5090"), 4) | {"b300": 3, "gb300": 3, "trainium3": 1},
    ),
}

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
    figures = ["memory_bytes", "memory_bytes_per_s", *one.flops_per_s]
    figures += ["driver_names"] if one.driver_names else []
    for figure in ("power_w", "link_bytes_per_s", "num_sms", "memory_kind", "launched"):
        figures += [figure] if getattr(one, figure) is not None else []
    for figure in figures:
        source = one.sources.get(figure) or (one.sources["flops_per_s"] if figure in chip.DTYPES else "")
        assert len(source) > 10, figure


@pytest.mark.parametrize("one", CHIPS, ids=ids)
def test_figures_are_of_a_chip_and_in_si_units(one: Chip) -> None:
    """Catches what a slip of units, or a figure for a whole node, would make."""
    assert one.memory_bytes % 2**30 == 0
    assert 8 * 2**30 <= one.memory_bytes <= 512 * 2**30
    assert 5e10 < one.memory_bytes_per_s < 2e13
    assert all(1e12 < rate < 2e16 for rate in one.flops_per_s.values())
    assert one.power_w is None or 50 <= one.power_w <= 1500
    assert one.link_bytes_per_s is None or 1e10 < one.link_bytes_per_s < one.memory_bytes_per_s
    assert one.num_sms is None or 8 <= one.num_sms <= 320
    assert one.launched is None or 2015 < one.launched < 2030
    assert one.memory_kind is None or one.memory_kind.startswith(("HBM", "GDDR", "LPDDR"))


@pytest.mark.parametrize("one", CHIPS, ids=ids)
def test_rates_are_dense_and_keep_their_ratios(one: Chip) -> None:
    """A figure with sparsity beside one without would break a ratio, for nearly all of these come in steps of two."""
    rates = one.flops_per_s
    for (narrow, wide), (usual, unusual) in RATIOS.items():
        if {narrow, wide} <= rates.keys():
            assert rates[narrow] / rates[wide] == pytest.approx(unusual.get(one.name, usual), rel=0.03)


def test_every_exception_to_a_ratio_is_needed() -> None:
    rates = {one.name: one.flops_per_s for one in CHIPS}
    for (narrow, wide), (usual, unusual) in RATIOS.items():
        for name in unusual:
            assert rates[name][narrow] / rates[name][wide] != pytest.approx(usual, rel=0.03)


@pytest.mark.parametrize("one", CHIPS, ids=ids)
def test_where_the_rate_of_16_bits_is_missing_the_file_says_so(one: Chip) -> None:
    """It is what an estimate needs first."""
    assert one.flops_per_s.keys() & {"bf16", "fp16"} or any(word in one.notes for word in ("fp16", "bf16", "rate"))


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
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA GH200 480GB", "gh200-96"),
        ("NVIDIA GH200 144G HBM3e", "gh200-144"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-server"),
    ],
)
def test_parts_of_one_family_are_told_apart(driver_name: str, name: str) -> None:
    found = chip.match(driver_name)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "driver_name",
    [
        "nvidia l40s",
        "NVIDIA L40S ",
        "L40S",
        "NVIDIA H100",
        "NVIDIA GH200",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "AMD Instinct MI250X / MI250",
        "GRID A100-4C",
        "Intel(R) Data Center GPU Max 1550",  # the card and each of its two stacks report this
        "A100",
        "NVIDIA GeForce RTX 3080",  # of 10 GB or of 12, which are two parts
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
        ("mi250-die", "bf16", 181.05e12),
        ("mi250-card", "bf16", 362.1e12),
        ("mi300x", "fp8", 2614.9e12),
        ("a10g", "bf16", 70e12),  # 125 is the A10's
        ("b300", "fp8", 4500e12),
        ("gaudi3", "bf16", 1677.7e12),  # the white paper's 1,835 is for a clock that it does not reach
        ("rtx-4080", "fp8", 194.9e12),
        ("rtx-2080-ti", "fp16", 53.8e12),
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
        ('["Some Chip 1"]', "[]", "sources has the key 'driver_names'"),
        ('["Some Chip 1"]', '["a", "a"]', "driver_names is ('a', 'a')"),
        ('vendor = "Some"', 'vendor = "Some"\naliases = "mine"', "aliases is 'mine'"),
        ('vendor = "Some"', 'vendor = "Some"\nnum_sms = 1.5', "num_sms is 1.5"),
        ('vendor = "Some"', 'vendor = "Some"\nnum_sms = 8', "sources has no key 'num_sms'"),
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


def test_a_chip_without_a_driver_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace('["Some Chip 1"]', "[]").replace('driver_names = "a log"\n', ""))
    assert chip.find(str(path)).driver_names == ()


def test_no_name_of_any_kind_means_two_chips() -> None:
    """Nor is one name given twice to the same chip, but for the bare kind of the commonest part ("H200")."""
    owners: dict[str, set[str]] = {}
    for one in CHIPS:
        for name in (one.name, *one.driver_names, *one.aliases):
            owners.setdefault(chip._plain(name), set()).add(one.name)
        assert len(set(map(chip._plain, (one.name, *one.aliases)))) == 1 + len(one.aliases), one.name
    assert {name: chips for name, chips in owners.items() if len(chips) > 1} == {}


@pytest.mark.parametrize("one", CHIPS, ids=ids)
def test_each_chip_is_resolved_by_each_of_its_names(one: Chip) -> None:
    for name in (one.name, *one.driver_names, *one.aliases):
        assert chip.resolve(name) == chip.resolve(name.upper()) == chip.resolve(name.replace(" ", "-")) == one


def published_devices() -> set[tuple[str, float | None]]:
    """Each kind of device in the published measurements, with the memory that its rows state."""
    found = set()
    for path in PUBLISHED.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            found |= {(row["device"], row["gpu_mem_gb"]) for row in csv.DictReader(file)}
    accelerators = {pair for pair in found if not pair[0].startswith(("CPU", "not stated"))}
    return {(device, float(memory) if memory else None) for device, memory in accelerators}


def test_every_published_device_is_a_chip_with_the_memory_that_was_stated() -> None:
    devices = published_devices()
    assert len(devices) > 60
    for device, memory in devices:
        found = chip.resolve(device, memory)
        if memory is not None and found.vendor != "Apple" and device != "MI250":  # sold with less; 64 GB is a die's
            assert found.memory_bytes / 2**30 == pytest.approx(memory, rel=0.08), device


@pytest.mark.parametrize(
    ("called", "memory_gb", "name"),
    [
        ("A100", None, "a100-sxm-80"),
        ("A100", 40, "a100-sxm-40"),
        ("A100", 39.4, "a100-sxm-40"),  # as torch reports it
        ("A100", 85.9, "a100-sxm-80"),  # as decimal GB
        ("A100 40GB", None, "a100-sxm-40"),
        ("A100 40GB PCIe", None, "a100-pcie-40"),
        ("nvidia a100 pcie", 80, "a100-pcie-80"),
        ("A100-SXM-80", None, "a100-sxm-80"),
        ("V100", None, "v100-sxm2-16"),
        ("V100", 32, "v100-sxm2-32"),
        ("H100", None, "h100-sxm"),
        ("H100", 95, "h100-sxm-96"),
        ("NVIDIA H100 SXM5 80GB", None, "h100-sxm"),
        ("GH200", 144, "gh200-144"),
        ("B200-SXM-180GB", None, "b200"),
        ("TPUv5p", 95, "tpu-v5p"),
        ("AMD Instinct MI300X", None, "mi300x"),
        ("MI250", None, "mi250-card"),
        ("Tesla T4", None, "t4"),
        ("RTX 3090 24 GB", None, "rtx-3090"),
        ("l40s", None, "l40s"),
    ],
)
def test_a_chip_is_found_by_what_people_call_it(called: str, memory_gb: float | None, name: str) -> None:
    assert chip.resolve(called, memory_gb).name == name


@pytest.mark.parametrize(
    ("called", "said"),
    [
        ("A100 20GB", "did you mean a100-"),  # a slice of a chip is not the chip
        ("H10", "did you mean h100-nvl or h100-pcie or h100-sxm"),
        ("RTX 4091", "rtx-4090"),
        ("CPU i9-13900K", "accelmark list chips"),
        ("NVIDIA GPU", "accelmark list chips"),
        ("", "accelmark list chips"),
    ],
)
def test_what_nobody_calls_so_is_refused_with_what_is_near(called: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        chip.resolve(called)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_relatives_share_a_generation() -> None:
    generations: dict[str, set[str]] = {}
    for one in CHIPS:
        generations.setdefault(f"{one.vendor} {one.generation}", set()).add(one.name)
    assert {"h100-sxm", "h100-pcie", "h20", "gh200-96", "h200-nvl"} <= generations["NVIDIA Hopper"]
    assert {"b200", "gb300", "rtx-5090", "gb10"} <= generations["NVIDIA Blackwell"]
    assert {"mi300x", "mi325x"} == generations["AMD CDNA 3"]
    assert {"tpu-v5e", "tpu-v5p"} == generations["Google TPU v5"]
    assert {"trainium1", "inferentia2"} == generations["AWS NeuronCore v2"]
