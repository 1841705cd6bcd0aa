"""Plans for machines that nobody has to own: which rungs they get, what a budget buys, and what is refused."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import model, units, workload
from bench.errors import UserError
from bench.measure import choice, plan
from bench.measure.choice import Request
from bench.measure.plan import Plan
from bench.record import Protocol, Speeds
from bench.workload import Scalar, Workload


def speeds(float32: float, bytes_per_s: float, free_bytes: float, launch_s: float = 2e-6, **narrow: float) -> Speeds:
    rates = {"float32": float32, **narrow}
    return Speeds(flops_per_s=rates, bytes_per_s=bytes_per_s, free_bytes=int(free_bytes), launch_s=launch_s)


MACHINES = {
    "laptop": speeds(150e9, 20e9, 5e9, bfloat16=40e9, float16=20e9),  # narrow types without instructions for them
    "two cores": speeds(310e9, 25e9, 24e9, bfloat16=2.1e12, float16=1.5e12),
    "H200": speeds(50e12, 4.2e12, 139e9, launch_s=4e-6, bfloat16=800e12, float16=800e12),
}
# All but the search for the limit of memory, which would take longer than everything else.
IN_QUICK = set(workload.names()) - {"memory_frontier"}
START_S = {"laptop": 3.0, "two cores": 3.0, "H200": 10.0}
SUITES = sorted(choice.suites())
# Seconds that a suite promises.
PROMISED_S = {
    ("quick", "two cores"): 90,
    ("quick", "H200"): 90,
    ("standard", "H200"): 12 * 60,
    ("full", "H200"): 4 * 3600,
}
BOTH = pytest.mark.parametrize(("suite", "machine"), list(itertools.product(SUITES, MACHINES)))


def made(machine: str = "two cores", *workloads: str, **request: Any) -> Plan:
    return plan.make(Request(workloads=workloads, **request), [MACHINES[machine]], START_S[machine])


def cases(planned: Plan) -> list[Workload]:
    return [one.case for one in planned.cases]


def labels(planned: Plan) -> list[str]:
    return [case.label() for case in cases(planned)]


# The suites


def test_the_three_suites_are_there() -> None:
    assert {"quick", "standard", "full"} <= set(SUITES)


@BOTH
def test_every_workload_has_a_case_that_fits(suite: str, machine: str) -> None:
    planned = made(machine, suite=suite)
    assert {case.name for case in cases(planned)} == (set(workload.names()) if suite == "full" else IN_QUICK)
    room = choice.MEMORY_SHARE * MACHINES[machine].free_bytes
    assert all(case.memory_bytes() <= room for case in cases(planned))
    assert len(set(labels(planned))) == len(planned.cases)
    assert not planned.skipped


@BOTH
def test_a_suite_takes_the_time_that_it_promises(suite: str, machine: str) -> None:
    planned = made(machine, suite=suite)
    assert planned.estimate_s <= PROMISED_S.get((suite, machine), 4 * 3600)
    assert max(one.estimate_s for one in planned.cases) < planned.timeout_s / 2


@BOTH
def test_no_predicted_step_is_longer_than_its_window(suite: str, machine: str) -> None:
    planned = made(machine, suite=suite)
    names = {one.case.label(): one.protocol for one in planned.cases}
    for case in cases(planned):
        protocol = planned.protocols[names[case.label()]]
        assert choice.predicted_s(case, MACHINES[machine]) <= protocol.max_time_s / 3, case.label()


@BOTH
def test_rungs_ascend(suite: str, machine: str) -> None:
    """In memory and in time on every machine: otherwise the largest that fits would not be the last that fits."""
    for entry in choice.load_suite(suite).cases:
        crossed = {key: value if isinstance(value, list) else [value] for key, value in entry.set.items()}
        for values in itertools.product(*crossed.values()):
            params: dict[str, Scalar] = dict(zip(crossed, values, strict=True))
            named = {"fast": workload.FLOATS, "others": workload.find(entry.workload).dtypes, None: [None]}
            for dtype in named.get(params.get("dtype"), [params.get("dtype")]):
                offered = [
                    workload.case(entry.workload, {**rung, **params, **({"dtype": dtype} if dtype else {})})
                    for rung in entry.rungs
                ]
                for smaller, larger in itertools.pairwise(offered):
                    assert smaller.memory_bytes() <= larger.memory_bytes(), larger.label()
                    before, after = (choice.predicted_s(case, MACHINES[machine]) for case in (smaller, larger))
                    assert before <= after * 1.0001, larger.label()


@pytest.mark.parametrize("suite", SUITES)
def test_entries_say_how_they_are_fitted(suite: str) -> None:
    loaded = choice.load_suite(suite)
    assert loaded.protocols["macro"].sample_s == 0.25  # a block averages over what a machine does meanwhile
    assert loaded.summary and {"micro", "macro"} <= loaded.protocols.keys()
    for entry in loaded.cases:
        assert 1 <= entry.take <= len(entry.rungs)
        assert entry.step_s is not None or entry.workload == "launch_overhead"


def test_equal_machines_get_equal_plans_and_larger_ones_no_smaller_cases() -> None:
    assert labels(made("H200", suite="standard")) == labels(made("H200", suite="standard"))
    largest = {machine: max(case.cost().flops for case in cases(made(machine, "matmul"))) for machine in MACHINES}
    assert largest["laptop"] < largest["two cores"] < largest["H200"]


def test_where_nothing_is_fast_enough_the_smallest_is_measured() -> None:
    planned = plan.make(Request(suite="quick"), [speeds(1e6, 1e6, 64e9)], 1.0)
    assert {case.name for case in cases(planned)} == IN_QUICK
    assert "matmul m=256 n=256 k=256 dtype=float32" in labels(planned)
    assert not planned.skipped


@pytest.mark.parametrize("budget_s", [None, 60.0])
def test_where_nothing_fits_the_smallest_is_left_out_so_that_a_record_says_so(budget_s: float | None) -> None:
    planned = plan.make(Request(suite="quick", budget_s=budget_s), [speeds(1e9, 1e9, 1)], 1.0)
    assert not planned.cases
    assert {one.case.name for one, _ in planned.skipped} == IN_QUICK
    reasons = {one.case.label(): reason for one, reason in planned.skipped}
    assert reasons["matmul m=256 n=256 k=256 dtype=float32"] == "needs about 0.750 MiB, 0.000000954 MiB is free"
    assert planned.estimate_s == 0


def test_what_fits_exactly_is_measured_and_one_byte_more_is_not() -> None:
    case = workload.case("memory_copy", {"num_bytes": 4096, "dtype": "float32"})
    asked = Request(workloads=("memory_copy",), settings={"num_bytes": ["4096"], "dtype": ["float32"]})
    for free_bytes, kept in ((case.memory_bytes(), 1), (case.memory_bytes() - 1, 0)):
        planned = plan.make(asked, [speeds(1e9, 1e9, free_bytes)], 1.0)
        assert (len(planned.cases), len(planned.skipped)) == (kept, 1 - kept)


def test_what_does_not_fit_on_one_device_is_left_out_there_only() -> None:
    small, large = speeds(1e11, 1e10, 1e9), speeds(1e11, 1e10, 64e9)
    asked = Request(workloads=("memory_copy",), settings={"num_bytes": ["4096", "4G"], "dtype": ["float32"]})
    planned = plan.make(asked, [small, large], 1.0)
    assert [(one.device, one.case.params()["num_bytes"]) for one, _ in planned.skipped] == [(0, 4 * 10**9)]
    assert len(planned.cases) == 3
    fitted = plan.fit(planned, 1.0)  # what a budget leaves out comes to it
    assert len(fitted.cases) + len(fitted.skipped) == 4
    assert fitted.skipped[-1] == planned.skipped[0]


def test_a_suite_must_exist_and_be_as_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no suite is named 'quik'.*full, quick, standard"):
        choice.load_suite("quik")
    with pytest.raises(UserError, match="no suite is named"):
        choice.load_suite("../suites/quick")
    monkeypatch.setattr(choice, "_SUITES", tmp_path)
    for text in (
        "summary = 1",
        "not toml",
        'summary = "x"\nrounds = 1\ntimeout_s = 1\ncases = []\n[protocols]\n[extra]',
    ):
        (tmp_path / "broken.toml").write_text(text)
        with pytest.raises(UserError, match=r"^broken\.toml: "):
            choice.load_suite("broken")


# The budget


BUDGETS_S = [2, 5, 10, 20, 45, 90, 180, 300, 600, 1200, 3600, 7200]


def stretch(planned: Plan) -> float:
    """How much longer than the suite's own its windows are."""
    own = choice.load_suite(planned.suite).protocols
    scales = {planned.protocols[scale].max_time_s / own[scale].max_time_s for scale in own}
    assert max(scales) == pytest.approx(min(scales))
    return scales.pop()


@BOTH
def test_a_budget_is_kept(suite: str, machine: str) -> None:
    whole = made(machine, suite=suite)
    for budget_s in BUDGETS_S:
        planned = plan.fit(whole, budget_s)
        least = len(planned.cases) == 1 and planned.rounds == 1 and stretch(planned) == plan.SHORTEST_WINDOW
        assert planned.estimate_s <= budget_s or least


@BOTH
def test_a_budget_changes_first_windows_then_rounds_then_cases(suite: str, machine: str) -> None:
    whole = made(machine, suite=suite)
    before: Plan | None = None
    for budget_s in BUDGETS_S:
        planned = plan.fit(whole, budget_s)
        scale = stretch(planned)
        assert plan.SHORTEST_WINDOW <= scale <= plan.LONGEST_WINDOW
        if len(planned.cases) < len(whole.cases):  # left out only when a single short round is too long
            assert planned.rounds == 1
        if planned.rounds < whole.rounds and not planned.skipped:  # one more round would have had too short windows
            assert plan._window_scale(whole, planned.rounds + 1, 0.9 * budget_s) < plan.SHORTEST_WINDOW
        if planned.rounds > whole.rounds:
            assert scale >= 1
        if scale > 1 and planned.rounds < plan.MOST_ROUNDS and planned.rounds >= whole.rounds:
            assert plan._window_scale(whole, planned.rounds + 1, 0.9 * budget_s) < 1
        if before is not None:
            assert len(planned.cases) >= len(before.cases)
            assert planned.rounds >= before.rounds
        before = planned


def test_more_time_buys_rounds_and_then_windows() -> None:
    whole = made(suite="quick")
    hour = made(suite="quick", budget_s=3600)
    assert hour.rounds == plan.MOST_ROUNDS and stretch(hour) == plan.LONGEST_WINDOW
    assert labels(hour) == labels(whole)
    assert hour.estimate_s < 3600  # more of quick would be no better: there is full for that
    between = made(suite="quick", budget_s=400)
    assert between.rounds == plan.MOST_ROUNDS and 1 < stretch(between) < plan.LONGEST_WINDOW


def test_skipped_cases_carry_their_reason_and_come_from_the_end() -> None:
    whole, short = made(suite="quick"), made(suite="quick", budget_s=10)
    assert labels(short) + [one.case.label() for one, _ in short.skipped] == labels(whole)
    assert short.skipped and {reason for _, reason in short.skipped} == {"left out to fit into 10 s"}


def test_rounds_that_were_asked_for_stay() -> None:
    for budget_s in BUDGETS_S:
        assert made(suite="quick", budget_s=budget_s, rounds=4).rounds == 4
    assert made(suite="quick", rounds=50).rounds == 50


def test_no_device_is_left_out_as_a_whole() -> None:
    machine = MACHINES["two cores"]
    planned = plan.make(Request(suite="quick", budget_s=30), [machine] * 4, 1.0)
    assert planned.skipped and {one.device for one in planned.cases} == {0, 1, 2, 3}


def test_a_node_of_many_devices_and_cases_is_planned() -> None:
    planned = plan.make(Request(suite="full", budget_s=30), [MACHINES["H200"]] * 8, 1.0)
    assert len(planned.cases) + len(planned.skipped) > 1000
    assert planned.estimate_s <= 30 or len(planned.cases) == 1


def test_an_estimate_counts_workers_and_cases() -> None:
    one = made(suite="quick", rounds=1)
    assert one.num_workers == 1
    worker_s = 3.0 + plan.FIRST_USE_S
    assert one.estimate_s == pytest.approx(worker_s + sum(case.estimate_s for case in one.cases))
    assert made(suite="quick", rounds=6).estimate_s == pytest.approx(6 * one.estimate_s)
    two = plan.make(Request(suite="quick", rounds=2), [MACHINES["two cores"]] * 2, 3.0)
    assert two.num_workers == 4 and two.estimate_s == pytest.approx(4 * one.estimate_s)


# Speeds


def test_earlier_speeds_are_kept_while_they_are_confirmed() -> None:
    earlier, now = speeds(1e12, 2e11, 8e9, bfloat16=4e12), speeds(1.9e12, 1.1e11, 7e9, bfloat16=2.1e12)
    kept = choice.settled(now, [earlier])
    assert kept == msgspec.structs.replace(earlier, free_bytes=now.free_bytes)  # what is free is free now
    assert choice.settled(now, []) == now
    busy = speeds(0.3e12, 0.6e11, 8e9, bfloat16=3e12)  # beside other programs
    assert choice.settled(busy, [earlier]) == earlier


@pytest.mark.parametrize(
    "other",
    [
        speeds(4e12, 2e11, 8e9, bfloat16=4e12),
        speeds(1e12, 0.9e11, 8e9, bfloat16=4e12),
        speeds(1e12, 2e11, 8e9, bfloat16=1e12),
        speeds(1e12, 2e11, 8e9),
        speeds(1e12, 2e11, 8e9, float16=4e12),
        speeds(1e12, 2e11, 8e9, bfloat16=4e12, float16=4e12),
    ],
)
def test_speeds_of_another_machine_are_not_kept(other: Speeds) -> None:
    now = speeds(1e12, 2e11, 8e9, bfloat16=4e12)
    assert choice.settled(now, [other]) == now
    assert choice.settled(now, [other, now]) == now


def test_noise_at_the_edge_of_a_rung_chooses_no_other_rung() -> None:
    first = MACHINES["two cores"]
    chosen = set()
    for noise in (0.6, 0.8, 1.0, 1.25, 1.6):
        rates = {dtype: noise * rate for dtype, rate in first.flops_per_s.items()}
        later = msgspec.structs.replace(first, flops_per_s=rates, bytes_per_s=noise * first.bytes_per_s)
        chosen.add(tuple(labels(plan.make(Request(suite="quick"), [choice.settled(later, [first])], 3.0))))
    assert len(chosen) == 1


@pytest.mark.parametrize(
    ("rates", "fast"),
    [
        ({"float32": 1.0}, "float32"),
        ({"float32": 1.0, "bfloat16": 1.2}, "float32"),  # not worth the digits
        ({"float32": 1.0, "bfloat16": 1.3}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 8.0, "float16": 8.0}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 8.0, "float16": 9.0}, "bfloat16"),  # close: the one that does not overflow
        ({"float32": 1.0, "bfloat16": 0.5, "float16": 8.0}, "float16"),  # a GPU of 2017
        ({"float32": 1.0, "float16": 2.0}, "float16"),
        ({"bfloat16": 1.0}, "bfloat16"),
    ],
)
def test_the_fast_type(rates: dict[str, float], fast: str) -> None:
    found = Speeds(flops_per_s=rates, bytes_per_s=1.0, free_bytes=1, launch_s=1.0)
    assert choice.fast_dtype(found) == fast


# What the user asks for


def test_set_crosses_its_values_and_overrides_the_suite() -> None:
    planned = made("two cores", "matmul", settings={"m": ["64", "128"], "dtype": ["float32", "bfloat16"]})
    assert planned.suite == "standard"  # named workloads are looked at more closely
    found = {(case.params()["m"], case.params()["dtype"]) for case in cases(planned)}
    assert found == set(itertools.product((64, 128), ("float32", "bfloat16")))


def test_a_fully_set_case_is_planned_once() -> None:
    everything = {"m": ["64"], "n": ["64"], "k": ["64"], "dtype": ["float32"]}
    assert labels(made("two cores", "matmul", settings=everything)) == ["matmul m=64 n=64 k=64 dtype=float32"]
    copied = made("two cores", "memory_copy", settings={"num_bytes": ["4096", "1024"]})
    assert sorted(case.params()["num_bytes"] for case in cases(copied)) == [1024, 4096]


def test_two_short_names_of_one_workload_are_two_cases() -> None:
    planned = plan.make(Request(workloads=("pp128", "pp512"), model="tiny"), [MACHINES["two cores"]], 1.0)
    assert [case.params()["prompt"] for case in cases(planned)] == [128, 512]


def test_who_sets_some_sizes_still_gets_the_variants() -> None:
    layouts = {case.params()["layout"] for case in cases(made("two cores", "matmul", settings={"m": ["64"]}))}
    assert layouts == {"nt", "nn", "tn"}


def test_what_the_user_sets_is_run_however_long_it_takes_but_not_where_it_does_not_fit() -> None:
    long = {"m": ["16384"], "n": ["16384"], "k": ["16384"], "dtype": ["float32"]}
    (case,) = cases(made("laptop", "matmul", settings=long))
    assert choice.predicted_s(case, MACHINES["laptop"]) > 50
    planned = made("laptop", "memory_copy", settings={"num_bytes": [str(1 << 40)]})
    assert not planned.cases
    ((left_out, reason),) = planned.skipped
    assert left_out.case.params()["num_bytes"] == 1 << 40
    assert reason == "needs about 2,050 GiB, 4.66 GiB is free"


def test_a_model_of_which_no_stack_fits_says_what_the_smallest_needs() -> None:
    planned = made("laptop", "train_step", model="qwen3-8b", settings={"seq": ["128"], "batch": ["4"]})
    assert planned.skipped and not planned.cases
    for one, reason in planned.skipped:
        least = workload.case("train_step", {**one.case.params(), "layers": 2}).memory_bytes()
        assert f"; 2 layers, the fewest that could stand for it, need {units.gibibytes(least)}, and have" in reason
        assert least > choice.MEMORY_SHARE * MACHINES["laptop"].free_bytes


def test_what_looking_took_is_off_the_budget() -> None:
    def left(spent_s: float) -> Plan:
        asked = Request(suite="quick", budget_s=60.0)
        return plan.make(asked, [MACHINES["two cores"]], 3.0, spent_s=spent_s)

    assert left(0.0).left_s == 60.0 and left(25.0).left_s == 35.0
    assert left(25.0).estimate_s <= 35.0 < left(0.0).estimate_s
    assert made(suite="quick").left_s is None


def test_counts_may_have_suffixes() -> None:
    sizes = made("H200", "memory_copy", settings={"num_bytes": ["4K", "1G"], "dtype": ["float32"]})
    assert sorted(case.params()["num_bytes"] for case in cases(sizes)) == [4000, 10**9]


def test_set_reaches_only_workloads_that_have_the_parameter() -> None:
    planned = made(suite="quick", settings={"head_dim": ["64"]})
    assert {case.name for case in cases(planned)} == IN_QUICK
    assert {case.params()["head_dim"] for case in cases(planned) if case.name == "attention"} == {64}


def test_a_model_replaces_those_of_the_rungs() -> None:
    planned = made("H200", suite="standard", model="qwen3-0.6b")
    named = [case.params()["model"] for case in cases(planned) if "model" in case.params()]
    assert set(named) == {"qwen3-0.6b"} and len(named) >= 6
    # It has no experts, so workloads for such models are left out.
    assert {case.name for case in cases(planned)} == IN_QUICK - {"moe_train_step", "moe_decode"}


def test_a_model_with_few_positions_gets_the_lengths_that_it_knows() -> None:
    planned = made("H200", suite="standard", model="gpt2-124m")
    lengths = [
        case.params().get("seq", case.params().get("prompt")) for case in cases(planned) if case.scale == "macro"
    ]
    assert lengths and all(length is None or int(length) <= 1024 for length in lengths)
    with pytest.raises(UserError, match="1024 positions"):
        made("H200", "prefill", model="gpt2-124m", settings={"prompt": ["2048"]})


def test_a_model_from_a_file_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELMARK_MODEL_FILES", "")
    folder = Path(model.__file__).parent.parent / "workloads" / "models"
    path = tmp_path / "lab-secret.toml"
    path.write_text((folder / "tiny.toml").read_text())
    planned = made("two cores", "decode", model=str(path))
    assert {case.params()["model"] for case in cases(planned)} == {"lab-secret"}
    with pytest.raises(UserError, match="no model is named"):
        made("two cores", "decode", settings={"model": [str(path)]})


@pytest.mark.parametrize(
    ("request_", "say"),
    [
        (Request(workloads=("matmull",)), "did you mean matmul"),
        (Request(suite="huge"), "no suite is named 'huge'"),
        (
            Request(workloads=("matmul",), settings={"colour": ["red"]}),
            "no workload of this run has a parameter 'colour'",
        ),
        (Request(workloads=("matmul",), model="tiny"), "no workload of this run has a parameter 'model'"),
        (Request(workloads=("decode",), model="llama-9"), "no model is named 'llama-9'"),
        (Request(workloads=("matmul",), settings={"m": ["many"]}), "m=many: matmul needs a whole number there"),
        (Request(workloads=("matmul",), settings={"m": ["64.5"]}), "m=64.5: matmul needs a whole number there"),
        (Request(workloads=("matmul",), settings={"m": ["0"]}), "m=0"),
        (Request(workloads=("matmul",), settings={key: ["2M"] for key in "mnk"}), "more FLOP or bytes in a step than"),
        (Request(workloads=("matmul",), settings={"dtype": ["int4"]}), "dtype='int4'"),
        (Request(workloads=("attention",), settings={"num_kv_heads": ["5"]}), "no multiple"),
        (Request(workloads=("prefill",), model="tiny", settings={"prompt": ["5000"]}), "4096 positions"),
    ],
)
def test_what_nobody_could_run_is_refused_before_anything_starts(request_: Request, say: str) -> None:
    with pytest.raises(UserError, match=say):
        plan.validate(request_)


def test_what_can_be_run_is_not_refused() -> None:
    for suite in SUITES:
        plan.validate(Request(suite=suite))
    for name in workload.names():
        plan.validate(Request(workloads=(name,)))
        plan.validate(Request(workloads=(name,), suite="quick", settings={"dtype": ["fast"]}))


def test_protocols_survive_a_budget_in_everything_but_their_times() -> None:
    own, fitted = choice.load_suite("quick").protocols, made(suite="quick", budget_s=20).protocols
    kept = [field.name for field in msgspec.structs.fields(Protocol) if field.name not in {"min_time_s", "max_time_s"}]
    assert all(getattr(own[scale], name) == getattr(fitted[scale], name) for scale in own for name in kept)
    assert dataclasses.is_dataclass(Plan)


# Short names, sweeps, types and stacks


def test_names_of_llama_bench_are_understood() -> None:
    prompt, generated = cases(made("H200", "pp512", "tg128"))
    assert (prompt.name, prompt.params()["prompt"], prompt.params()["batch"]) == ("prefill", 512, 1)
    assert (generated.name, generated.params()["context"], generated.params()["batch"]) == ("decode", 64, 1)
    (small,) = cases(made("two cores", "pp64", model="gpt2-124m", settings={"dtype": ["float32"]}))
    assert small.label() == "prefill model=gpt2-124m batch=1 prompt=64 dtype=float32"
    assert {case.params()["prompt"] for case in cases(made("H200", "pp512", "pp2048"))} == {512, 2048}


def test_what_a_sweep_makes_that_is_no_case_is_kept_with_its_reason() -> None:
    planned = made("two cores", "attention", settings={"num_kv_heads": ["4", "5"], "num_heads": ["8"], "seq": ["64"]})
    assert {case.params()["num_kv_heads"] for case in cases(planned)} == {4}
    assert {one.params["num_kv_heads"] for one in planned.refused} == {5}
    assert all("no multiple" in one.reason for one in planned.refused)
    with pytest.raises(UserError, match="no multiple"):  # alone it is a mistake
        made("two cores", "attention", settings={"num_kv_heads": ["5"], "num_heads": ["8"], "seq": ["64"]})


def test_a_type_of_one_layout_leaves_out_the_suites_other_layouts() -> None:
    rich = speeds(50e12, 4e12, 80e9, bfloat16=800e12, int8=1400e12)
    planned = plan.make(Request(workloads=("matmul",), settings={"dtype": ["int8"]}), [rich], 10.0)
    assert {case.params()["layout"] for case in cases(planned)} == {"nt"}
    assert {one.params["layout"] for one in planned.refused} == {"nn", "tn"}


def test_a_workload_without_any_case_is_a_mistake_beside_others_that_have_some() -> None:
    with pytest.raises(UserError, match="no multiple"):
        made("two cores", "rms_norm", "attention", settings={"num_kv_heads": ["5"], "num_heads": ["8"]})


def test_a_type_that_no_device_has_is_refused_unless_another_goes_with_it() -> None:
    settings = {"m": ["64"], "n": ["64"], "k": ["64"]}
    with pytest.raises(UserError, match="there is float32, bfloat16, float16"):
        made("two cores", "matmul", settings={**settings, "dtype": ["tf32"]})
    assert len(made("two cores", "matmul", settings={**settings, "dtype": ["tf32", "float32"]}).cases) >= 2


def test_other_types_are_those_that_the_device_has() -> None:
    kind = workload.find("matmul")
    rich = speeds(50e12, 4e12, 80e9, bfloat16=800e12, float16=700e12, float8_e4m3fn=1500e12, int8=1400e12)
    assert choice._dtypes(["others"], kind, rich) == ["float16", "float8_e4m3fn", "int8"]
    assert choice._dtypes(["float32", "fast", "others"], kind, MACHINES["two cores"]) == [
        "float32",
        "bfloat16",
        "float16",
    ]


def test_a_model_that_does_not_fit_is_planned_as_two_stacks_of_its_layers() -> None:
    less, more = cases(
        made("two cores", "decode", model="llama-3.1-70b", settings={"context": ["128"], "batch": ["1"]})
    )
    assert more.params()["layers"] == 2 * less.params()["layers"] > 0  # type: ignore[operator]
    assert more.memory_bytes() <= choice.MEMORY_SHARE * MACHINES["two cores"].free_bytes
    assert more.extras()["extrapolated_from_layers"] == more.params()["layers"]
    fits = cases(made("H200", "decode", model="llama-3.1-8b", settings={"context": ["128"], "batch": ["1"]}))
    assert [case.params()["layers"] for case in fits] == [0]


def test_stacks_keep_the_proportion_of_the_layers() -> None:
    for name in ("gemma-3-27b", "deepseek-v3"):
        shape = model.find(name)
        kind = "decode" if shape.num_experts is None else "moe_decode"
        stacks = cases(made("H200", kind, model=name, settings={"context": ["128"], "batch": ["1"]}))
        if len(stacks) == 2:
            for case in stacks:
                layers = int(case.params()["layers"])
                assert layers % (shape.full_attention_every or 1) == 0 and layers > shape.num_dense_layers


def test_a_plan_counts_what_compiling_takes() -> None:
    plain, compiled = (
        made("two cores", "launch_overhead", rounds=3, settings={"compiled": [str(value)], "dtype": ["float32"]})
        for value in (False, True)
    )
    assert len(plain.cases) == len(compiled.cases) > 0
    taken_s = plan.COMPILE_S["micro"] * len(compiled.cases)  # once, and not in each of three rounds
    assert compiled.estimate_s == pytest.approx(plain.estimate_s + taken_s)
