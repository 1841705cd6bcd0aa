import json
import math
import random

import pytest

from bench.estimate.operation import curves
from bench.estimate.operation.curves import (
    Attention,
    AttentionCurve,
    BandwidthCurve,
    CollectiveTable,
    Gemm,
    GemmCurve,
    LaunchCost,
    Pass,
)
from bench.estimate.operation.curves.gemm import GemmLaw, _sizes
from bench.estimate.operation.curves.goodness import bound, relative

TRUTH = GemmLaw(
    flops_per_s=800e12,
    bytes_per_s=2.8e12,
    launch_s=6e-6,
    k_half=120.0,
    split=0.5,
    edge=15.0,
    overlap=0.25,
    num_units=132,
)
SHAPES = [
    Gemm(m=m, n=n, k=k)
    for m in (1, 16, 128, 500, 1024, 4096)
    for n, k in ((1024, 4096), (4096, 4096), (6144, 2048), (11008, 4096), (4096, 11008), (28672, 8192))
]


def planted(shape: Gemm) -> float:
    return float(TRUTH.seconds(_sizes([shape]))[0])


@pytest.fixture(scope="module")
def gemm() -> GemmCurve:
    return GemmCurve.fit([(shape, planted(shape)) for shape in SHAPES], num_units=132)


def test_a_planted_device_is_recovered(gemm: GemmCurve) -> None:
    assert gemm.law.flops_per_s == pytest.approx(TRUTH.flops_per_s, rel=0.03)
    assert gemm.law.bytes_per_s == pytest.approx(TRUTH.bytes_per_s, rel=0.03)
    assert gemm.law.launch_s == pytest.approx(TRUTH.launch_s, rel=0.05)


def test_shapes_that_were_not_measured_follow_the_planted_law(gemm: GemmCurve) -> None:
    for shape in (Gemm(m=300, n=5120, k=5120), Gemm(m=2048, n=8192, k=3072), Gemm(m=4, n=12288, k=4096)):
        seconds, sigma = gemm.seconds(shape)
        assert relative(math.log(seconds / planted(shape))) < 0.03
        assert 0.0 < sigma < 0.1


def test_what_no_law_explains_is_learned_from_neighbours_and_forgotten_far_away() -> None:
    def odd(shape: Gemm) -> float:  # a library that does badly at 1024 rows
        return planted(shape) * (1.4 if shape.m == 1024 else 1.0)

    curve = GemmCurve.fit([(shape, odd(shape)) for shape in SHAPES], num_units=132)
    near, far = Gemm(m=1024, n=4096, k=6144), Gemm(m=300_000, n=600_000, k=400_000)
    assert relative(math.log(curve.seconds(near)[0] / odd(near))) < 0.12
    law = float(curve.law.seconds(_sizes([far]))[0])
    assert curve.seconds(far)[0] == pytest.approx(law, rel=0.01)
    assert curve.spread is not None
    assert curve.seconds(far)[1] == pytest.approx(math.hypot(curve.spread.process, curve.spread.noise), rel=0.01)
    assert curve.seconds(far)[1] > curve.seconds(near)[1]


def test_more_work_is_never_faster_beyond_a_wave(gemm: GemmCurve) -> None:
    for size in (Gemm(m=512, n=4096, k=4096), Gemm(m=2048, n=8192, k=8192)):
        for more in ({"m": 4}, {"n": 4}, {"k": 4}, {"batch": 4}):
            larger = Gemm(**{name: getattr(size, name) * more.get(name, 1) for name in ("m", "n", "k", "batch")})
            assert gemm.seconds(larger)[0] > gemm.seconds(size)[0]


def test_repeats_count_and_a_coarse_clock_widens() -> None:
    points = [(shape, planted(shape)) for shape in SHAPES]
    rng = random.Random(1)
    noisy = [(shape, seconds * math.exp(rng.gauss(0, 0.02))) for shape, seconds in points * 3]
    curve = GemmCurve.fit(noisy, num_units=132)
    assert len(curve.points) == len(SHAPES)
    assert curve.goodness.num_points == len(noisy)
    assert 0.01 < curve.seconds(SHAPES[10])[1] < 0.06
    assert (
        0.6 < sum(abs(math.log(t / curve.seconds(s)[0])) < curve.seconds(s)[1] for s, t in noisy) / len(noisy) <= 0.95
    )


@pytest.mark.parametrize("num", [1, 2, 5])
def test_a_few_shapes_give_a_curve_too(num: int) -> None:
    curve = GemmCurve.fit([(shape, planted(shape)) for shape in SHAPES[-num:]], num_units=132)
    seconds, sigma = curve.seconds(SHAPES[-1])
    assert relative(math.log(seconds / planted(SHAPES[-1]))) < 0.2
    assert sigma > 0


def test_passes_are_recovered_and_rise_with_their_bytes() -> None:
    laws = {"add": (4e-6, 2e12), "norm": (9e-6, 1.2e12)}

    def seconds(one: Pass) -> float:
        fixed, rate = laws[one.op]
        return fixed + one.bytes / rate

    points = [Pass(op=op, bytes=2.0**power, columns=4096) for op in laws for power in range(18, 31)]
    curve = BandwidthCurve.fit([(one, seconds(one)) for one in points])
    for op, (fixed, rate) in laws.items():
        assert curve.law_of(op) == pytest.approx((fixed, rate), rel=0.05)
    odd = Pass(op="norm", bytes=3e7, columns=4096)
    assert relative(math.log(curve.seconds(odd)[0] / seconds(odd))) < 0.02
    times = [
        curve.seconds(Pass(op="add", bytes=size, columns=4096))[0] for size in (1e5, 1e6, 3e6, 1e7, 1e8, 1e9, 1e11)
    ]
    assert times == sorted(times)


def test_an_operation_that_was_not_measured_is_less_certain() -> None:
    points = [(Pass(op="add", bytes=10.0**power), 1e-5 + 10.0**power / 1e12) for power in range(4, 10)]
    curve = BandwidthCurve.fit(points)
    assert curve.seconds(Pass(op="rope", bytes=1e7))[1] > curve.seconds(Pass(op="add", bytes=1e7))[1]


def test_a_table_gives_its_own_figures_and_goes_on_by_its_law() -> None:
    points = [(2.0**power, 12e-6 + 2.0**power / 180e9) for power in range(12, 31, 2)]
    table = CollectiveTable.fit(points, op="all_reduce", ranks=8)
    for size, seconds in points:
        assert table.seconds(size)[0] == pytest.approx(seconds, rel=1e-3)
    assert table.seconds(3e6)[0] == pytest.approx(12e-6 + 3e6 / 180e9, rel=0.02)
    beyond = table.seconds(2.0**34)
    assert beyond[0] == pytest.approx(2.0**34 / 180e9, rel=0.05)
    assert beyond[1] >= 0.1 * 4  # four doublings beyond the last size
    sizes = [2.0**power for power in range(8, 36)]
    assert [table.seconds(size)[0] for size in sizes] == sorted(table.seconds(size)[0] for size in sizes)


def test_more_ranks_send_more_and_are_less_certain() -> None:
    points = [(10.0**power, 1e-5 + 10.0**power / 1e11) for power in range(3, 10)]
    four = CollectiveTable.fit(points, op="all_reduce", ranks=4)
    eight = four.among(8)
    assert eight.seconds(1e9)[0] / four.seconds(1e9)[0] == pytest.approx((2 * 7 / 8) / (2 * 3 / 4), rel=0.02)
    assert eight.seconds(1e3)[0] / four.seconds(1e3)[0] == pytest.approx(1.5, rel=0.05)
    assert eight.seconds(1e6)[1] > four.seconds(1e6)[1]


def test_attention_is_recovered_forward_and_backward_apart() -> None:
    rates = {"forward": (600e12, 400.0), "backward": (450e12, 700.0)}

    def seconds(one: Attention) -> float:
        rate, half = rates[one.direction]
        return one.flops / (rate * one.seq / (one.seq + half) * (0.9 if one.causal else 1.0))

    shapes = [
        Attention(batch=2, heads=16, head_dim=128, seq=seq, causal=causal, direction=direction)
        for seq in (512, 2048, 8192, 32768)
        for causal in (True, False)
        for direction in ("forward", "backward")
    ]
    curve = AttentionCurve.fit([(shape, seconds(shape)) for shape in shapes])
    for direction, (rate, half) in rates.items():
        assert curve.flops_per_s[direction] == pytest.approx(rate, rel=0.02)
        assert curve.half_seq[direction] == pytest.approx(half, rel=0.05)
    assert curve.causal_factor == pytest.approx(0.9, rel=0.02)
    assert curve.goodness.loo_median < 0.01


def test_launches_are_a_line() -> None:
    cost = LaunchCost.fit([(num, 30e-6 + 4e-6 * num) for num in (1, 20, 200)])
    assert (cost.per_launch_s, cost.fixed_s) == pytest.approx((4e-6, 30e-6), rel=1e-3)
    assert LaunchCost.fit([(200, 1e-3)]).seconds(100)[0] == pytest.approx(5e-4)


def test_every_curve_survives_json(gemm: GemmCurve) -> None:
    passes = BandwidthCurve.fit([(Pass(op="add", bytes=10.0**p), 1e-5 + 10.0**p / 1e12) for p in range(4, 11)])
    table = CollectiveTable.fit([(10.0**p, 1e-5 + 10.0**p / 1e11) for p in range(3, 9)], op="send_recv", ranks=2)
    shape = Attention(batch=1, heads=8, head_dim=64, seq=1024)
    attention = AttentionCurve.fit([(shape, 1e-4)])
    launch = LaunchCost.fit([(1, 5e-6)])
    for curve, asked in (
        (gemm, Gemm(m=77, n=4096, k=5000)),
        (passes, Pass(op="add", bytes=3e6)),
        (table, 5e5),
        (attention, shape),
        (launch, 7),
    ):
        again = type(curve).from_dict(json.loads(json.dumps(curve.to_dict())))
        assert again.seconds(asked) == pytest.approx(curve.seconds(asked), rel=2e-3)
        assert again.to_dict() == curve.to_dict()


def test_a_fit_is_deterministic() -> None:
    points = [(shape, planted(shape)) for shape in SHAPES[::2]]
    assert GemmCurve.fit(points, num_units=132).to_dict() == GemmCurve.fit(points, num_units=132).to_dict()


@pytest.mark.parametrize(
    "fit",
    [
        lambda: GemmCurve.fit([], num_units=1),
        lambda: BandwidthCurve.fit([]),
        lambda: CollectiveTable.fit([], op="all_reduce", ranks=2),
        lambda: AttentionCurve.fit([]),
        lambda: LaunchCost.fit([]),
    ],
)
def test_no_points_no_curve(fit) -> None:
    with pytest.raises(ValueError, match="needs points"):
        fit()


def test_quantiles_of_few_errors_are_not_their_extremes() -> None:
    assert bound([0.1] * 7, 0.9) == pytest.approx(1.943, rel=0.03)  # Student's t with six degrees of freedom
    assert bound([0.1, 0.2], 0.9) > bound([0.1] * 7, 0.9)
    assert bound([float(value) for value in range(1, 20)], 0.9) == 18.0


def test_the_hull_tells_what_was_measured(gemm: GemmCurve) -> None:
    assert gemm.goodness.covers(m=100, n=4096, k=4096, batch=1)
    assert not gemm.goodness.covers(m=100, n=100, k=4096, batch=1)
    assert curves.Goodness.from_dict(gemm.goodness.to_dict()).hull == gemm.goodness.hull
