"""The report: what it says, draws and leaves out, and that the same files give the same page."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import laboratories
import msgspec
import pytest

import bench
from bench import record
from bench.analyze import report
from bench.analyze.report import evidence, svg, words
from bench.errors import UserError

replace = msgspec.structs.replace
GOLDEN_PAGE = Path(__file__).parent / "golden" / "format-1.report.html"
MATMUL = {"m": 64, "n": 64, "k": 64, "dtype": "float32"}


@pytest.fixture(scope="module")
def fifty() -> report.Report:
    """Of fifty machines of ten chips, without the way over the disk."""
    kinds = evidence.kinds(list(laboratories.files(50, rounds=1)))
    found = evidence.Evidence(kinds=kinds, findings=[], num_files=50, refused=[])
    return report.Report(evidence=found, figures=report.figures(found))


def said(made: report.Report) -> str:
    return "\n".join(words.stands_out(made.evidence))


def tags(html: str) -> list[str]:
    return re.findall(r"<(/?[a-z0-9]+)", html)


def test_the_golden_file_gives_the_golden_page(golden: Path) -> None:
    made = report.report([golden]).html()
    assert made == GOLDEN_PAGE.read_text(encoding="utf-8"), (
        f"if this is what is wanted: python -m bench report {golden} --out {GOLDEN_PAGE}"
    )


def test_a_case_in_quarantine_is_no_headline(build: Any) -> None:
    slow = build.record([2e-3] * 8)
    fast = build.record([1e-3] * 8, params=MATMUL | {"k": 128})
    file = build.file([slow, fast])
    (sound,), (doubted,) = (evidence.kinds([file], keys) for keys in ((), {(file.session.id, fast.device, fast.key())}))
    best = [kind.machines[0].best("matmul", "flops_per_s") for kind in (sound, doubted)]
    assert [one.summary.first.params["k"] for one in best if one] == [128, 64]
    assert dict(words.headline(sound)) != dict(words.headline(doubted))
    assert len(doubted.machines[0].latest) == 2  # shown all the same


def test_the_same_files_give_the_same_page_in_any_process_and_order(
    planted: Path, golden: Path, tmp_path: Path
) -> None:
    pages = []
    for seed, paths in (("1", [planted, golden]), ("2", [golden, planted])):
        out = tmp_path / f"{seed}.html"
        command = [sys.executable, "-m", "bench", "report", *map(str, paths), "--out", str(out)]
        subprocess.run(command, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)})
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]


def test_fifty_machines_fit_into_three_megabytes_and_every_figure_is_drawn(fifty: report.Report) -> None:
    html = fifty.html()
    assert len(html.encode()) < 3_000_000
    assert len(fifty.evidence.machines) == 50
    assert all(figure.panels and figure.body for figure in fifty.figures)
    assert all(len(line) == len(figure.header) for figure in fifty.figures for line in figure.body)


def test_it_names_the_machines_that_are_slow_and_those_held_by_their_limit(fifty: report.Report) -> None:
    sentences = words.stands_out(fifty.evidence)
    apart = [sentence for sentence in sentences if "differs from others of its kind" in sentence]
    assert apart and all(f"no. {laboratories.SLOW} differs" in sentence and "slower" in sentence for sentence in apart)
    assert any(
        "h100-sxm: the power limit held back" in sentence and "40 % of the time" in sentence for sentence in sentences
    )
    assert any("is set to 490 W of 700 W" in s or re.search(r"is set to \d+ W of \d+ W", s) for s in sentences)


def test_every_identifier_is_there_once_and_every_link_leads_somewhere(fifty: report.Report) -> None:
    html = fifty.html()
    identifiers = re.findall(r'\bid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))
    pointed = re.findall(r'href="#([^"]+)"', html) + [
        name for names in re.findall(r'aria-labelledby="([^"]+)"', html) for name in names.split()
    ]
    assert set(pointed) <= set(identifiers)


def test_every_picture_has_words_axes_with_units_and_stays_in_its_frame(fifty: report.Report) -> None:
    for figure in fifty.figures:
        for number, panel in enumerate(figure.panels):
            element = ElementTree.fromstring(panel.svg(f"{figure.name}-{number}"))
            assert [child.tag for child in element][:2] == ["title", "desc"]
            assert all(child.text for child in element[:2])
            texts = [text for text in element.iter("text") if text.get("x")]
            assert all(text.text and 0 <= float(text.get("x", "")) <= svg.WIDTH for text in texts)
            for polyline in element.iter("polyline"):
                for point in polyline.get("points", "").split():
                    across, down = map(float, point.split(","))
                    assert 0 <= across <= svg.WIDTH and 0 <= down <= panel.height


def test_what_was_not_measured_is_said_and_not_drawn(planted: Path) -> None:
    made = report.report([planted])
    empty = {figure.name: figure.says for figure in made.figures if not figure.panels}
    assert set(empty) == {"machines", "roofline", "matmul", "attention", "decode", "power", "energy"}
    assert "no attention in these files" in empty["attention"]
    assert empty["attention"] in made.html().partition("Not drawn")[2]


def test_a_refused_file_is_named_and_in_no_figure(planted: Path, golden: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(golden.read_bytes().replace(b'"gemm_flops":0', b'"gemm_flops":7', 1))
    made = report.report([planted, bad])
    assert made.evidence.refused == ["bad.jsonl"]
    assert "1 of 2 files is refused" in said(made) and "bad.jsonl" in said(made)
    assert len(made.evidence.machines) == 1
    with pytest.raises(UserError, match=r"1 of 1 files are refused.*bad\.jsonl"):
        report.report([bad])


def test_a_run_that_failed_is_told_and_a_later_failure_takes_nothing_away(build: Any, tmp_path: Path) -> None:
    first = build.file([build.record(params=MATMUL)], name="a.jsonl")
    later = build.file(
        [build.failed("oom", params=MATMUL)], name="b.jsonl", id="b" * 16, started="2027-01-01T00:00:00+00:00"
    )
    (kind,) = evidence.kinds([first, later])
    (machine,) = kind.machines
    assert len(machine.results) == 2
    assert [one.measured for one in machine.latest.values()] == [True]


def test_of_several_runs_of_a_machine_figures_show_the_latest(build: Any) -> None:
    runs = [
        build.file(build.rounds([step_s] * 2), id=letter * 16, started=f"2026-01-0{day}T00:00:00+00:00")
        for letter, day, step_s in (("a", 1, 1e-3), ("b", 3, 3e-3), ("c", 2, 2e-3))
    ]
    (kind,) = evidence.kinds(runs)
    assert [one.row["step_s"] for one in kind.machines[0].latest.values()] == [3e-3]


def test_boards_are_told_apart_by_their_identity_and_numbered_by_time(build: Any) -> None:
    session = build.session()
    files = [
        build.file([build.record()], id=letter * 16, started=f"2026-01-0{day}T00:00:00+00:00",
                   devices=[replace(session.devices[0], uuid_hash=board)])
        for letter, day, board in (("a", 2, "one"), ("b", 1, "two"), ("c", 3, "one"))
    ]  # fmt: skip
    (kind,) = evidence.kinds(files)
    assert [machine.facts.uuid_hash for machine in kind.machines] == ["two", "one"]
    assert [kind.label(machine)[-5:] for machine in kind.machines] == ["no. 1", "no. 2"]


def test_strings_of_a_stranger_are_text_in_page_and_picture(hostile: Path, tmp_path: Path) -> None:
    made = report.report([hostile])
    html = made.html()
    assert html.count("<script") == 2 and "<img" not in html and not re.search(r"""["']javascript:""", html)
    assert not any(char in html for char in "\u202e\u200b\x1b\x00\u2028")
    for path in report.write_pictures(made.figures, tmp_path):
        ElementTree.fromstring(path.read_text())


@pytest.mark.parametrize("name", ["matmul", "attention", "decode", "train_step", "memory_copy"])
@pytest.mark.parametrize("size", [None, "many", 0, -5, True, 1e30, 2**53])
def test_a_strangers_parameters_of_a_known_name_break_nothing(build: Any, name: str, size: Any) -> None:
    sizes = {"m", "n", "k", "seq", "batch", "context", "num_bytes", "layers"} if size is not None else set()
    work = {"gemm_flops": 2**62, "attention_flops": 0, "elementwise_flops": 0, "bytes": 1, "tokens": 2**53}
    records = [
        build.record(
            [step_s] * 3,
            workload=name,
            params={"dtype": dtype, "duty": "sustained", **dict.fromkeys(sizes, size)},
            work=record.Work(**work, launches=0, link_bytes=0),
        )
        for step_s, dtype in ((1e-12, "x"), (1e6, "y"), (1e-3, "float32"))
    ]
    series = record.Series(t_s=[0.0] * 9, values=[-1e30, 1e30, *[0.0] * 7])
    telemetry = record.Telemetry(
        window_s=1.0,
        period_s=0.1,
        busy=0.0,
        series={"power_w": series},
        changes={"throttle_power_cap_s": 1e30},
        state={},
    )
    device = replace(build.session().devices[0], readings={"power_limit_w": -1e30, "power_limit_default_w": 0.0})
    records = [replace(one, telemetry=telemetry) for one in records]
    kinds = evidence.kinds([build.file(records, devices=[device])])
    found = evidence.Evidence(kinds=kinds, findings=[], num_files=1, refused=[])
    assert "All results" in report.Report(evidence=found, figures=report.figures(found)).html()


def test_pictures_stand_by_themselves(golden: Path, tmp_path: Path) -> None:
    made = report.report([golden])
    written = report.write_pictures(made.figures, tmp_path / "pictures")
    assert [path.name for path in written] == [f"{figure.name}.svg" for figure in made.figures if figure.panels]
    for path in written:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in path.read_text(encoding="utf-8") and "href" not in path.read_text(encoding="utf-8")


def test_png_says_what_to_install_where_it_cannot(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    with pytest.raises(UserError, match=r"^CairoSVG is not installed: \S+ -m pip install CairoSVG$"):
        report.write_pictures(report.report([golden]).figures, tmp_path / "none", png=True)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="--figures"):
        bench.report([golden], out=tmp_path / "report.html", png=True)


def test_only_a_page_is_written_over(planted: Path) -> None:
    with pytest.raises(UserError, match="HTML"):
        bench.report([planted], out=planted)


def test_a_full_disk_leaves_the_page_that_was_there(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "report.html"
    page.write_text("of yesterday")

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as out:
            out.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        bench.report([golden], out=page)
    assert page.read_text() == "of yesterday"
    assert [path.name for path in tmp_path.glob("*report.html*")] == ["report.html"]


def test_the_command_says_where_the_page_is(golden: Path, tmp_path: Path) -> None:
    document = bench.report([golden], out=tmp_path / "report.html", figures=tmp_path)
    assert document["page"] == str(tmp_path / "report.html")
    assert document["bytes"] == (tmp_path / "report.html").stat().st_size
    assert (document["files"], document["machines"], document["refused"]) == (1, 1, [])
    assert document["pictures"] == [str(tmp_path / "roofline.svg"), str(tmp_path / "power.svg")]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([73.0], [0, 20, 40, 60, 80]), ([1.0], [0, 0.2, 0.4, 0.6, 0.8, 1.0]), ([0.0], [0, 0.2, 0.4, 0.6, 0.8, 1.0])],
)
def test_linear_axes_end_at_round_numbers(values: list[float], ticks: list[float]) -> None:
    axis = svg.linear("W", values)
    assert [value for value, _ in axis.ticks] == pytest.approx(ticks)
    assert axis.high >= max(values)


def test_logarithmic_axes_hold_every_value_and_few_ticks() -> None:
    axis = svg.logarithmic("FLOP/s", [3e9, 9e14])
    assert axis.low == 1e9 and axis.high == 1e15
    assert [words for _, words in axis.ticks] == ["1 G", "10 G", "100 G", "1 T", "10 T", "100 T", "1 P"]
    assert svg.logarithmic("tokens", [128, 32768], base=2, most=5).ticks[-1][0] <= 32768
