"""The report in a real browser: it draws, sorts and filters, asks nothing of any network, runs nothing of a file's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import laboratories
import pytest
from browser import Browser, find

import bench
from bench.analyze.report import page as pages

PROGRAM = find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here")

ROWS = "[...document.querySelectorAll('#body tr')].map(row => [...row.cells].map(cell => cell.textContent))"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM) as browser:
        yield browser


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    laboratories.write(folder / "files", 6, rounds=1, chips=("h100-sxm", "rtx-4090"))
    bench.report([folder / "files"], out=folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def opened(chromium: Browser, laboratory: Path) -> Browser:
    chromium.window(1280)
    chromium.open(laboratory)
    return chromium


def column(browser: Browser, name: str) -> int:
    heads: list[str] = browser.run("[...document.querySelectorAll('#head th')].map(head => head.textContent)")
    return heads.index(name)


def type_into(browser: Browser, place: int, text: str) -> None:
    browser.run(f"document.querySelectorAll('#filters input')[{place}].focus()")
    browser.ask("Input.insertText", text=text)


def test_it_draws_asks_for_nothing_and_complains_of_nothing(opened: Browser, laboratory: Path) -> None:
    assert opened.run("document.documentElement.dataset.ready") == "1"
    assert opened.run("document.querySelectorAll('main svg').length") > 10
    assert opened.requests() == [laboratory.resolve().as_uri()]
    assert opened.complaints() == []
    places = "[...document.querySelectorAll('main svg text')].map(one => one.getBoundingClientRect().width)"
    assert all(width > 0 for width in opened.run(places))


def test_a_heading_sorts_and_says_so_and_unknown_comes_last(opened: Browser) -> None:
    place = column(opened, "tokens/s")
    head = f"document.querySelectorAll('#head th')[{place}]"
    for direction in ("descending", "ascending"):
        opened.run(f"{head}.querySelector('button').focus()")
        opened.key("Enter", 13, "\r")
        assert opened.run(f"{head}.getAttribute('aria-sort')") == direction
        values = [row[place] for row in opened.run(ROWS)]
        known = [float(value) for value in values if value]
        assert known == sorted(known, reverse=direction == "descending") and known
        assert not any(values[len(known) :])
    assert "by tokens/s upward" in opened.run("document.getElementById('told').textContent")


def test_filters_take_comparisons_in_the_unit_of_their_heading(opened: Browser) -> None:
    workload, rate = column(opened, "workload"), column(opened, "TFLOP/s")
    type_into(opened, workload, "matmul")
    type_into(opened, rate, ">100")
    rows = opened.run(ROWS)
    assert rows and all(row[workload] == "matmul" and float(row[rate]) > 100 for row in rows)
    opened.run("document.getElementById('clear').click()")
    assert len(opened.run(ROWS)) == 100
    type_into(opened, rate, "5..10")
    assert all(5 <= float(row[rate]) <= 10 for row in opened.run(ROWS))


def test_pages_turn_and_every_result_is_on_one(opened: Browser) -> None:
    seen = len(opened.run(ROWS))
    while not opened.run("document.getElementById('on').disabled"):
        opened.run("document.getElementById('on').click()")
        seen += len(opened.run(ROWS))
    assert opened.run("document.getElementById('told').textContent").startswith(f"{seen} of {seen} results")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_nothing_is_wider_than_the_window(opened: Browser, width: int, dark: bool) -> None:
    opened.window(width, dark=dark)
    assert opened.run("document.documentElement.scrollWidth") <= width


def test_without_the_script_the_first_rows_are_there(chromium: Browser, laboratory: Path) -> None:
    chromium.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(laboratory)
    finally:
        chromium.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert len(chromium.run(ROWS)) == 100


def test_strings_of_a_stranger_are_text(chromium: Browser, tmp_path: Path, build: Any, hostile: Any) -> None:
    bench.report([hostile], out=tmp_path / "report.html")
    chromium.window(390)
    chromium.open(tmp_path / "report.html")
    assert chromium.complaints() == [] and len(chromium.requests()) == 1
    assert chromium.run("window.stolen") is None
    assert "<script>" in chromium.run("document.querySelector('.cards').textContent")
    assert chromium.run("document.querySelectorAll('script').length") == 2
    assert chromium.run("document.querySelectorAll('img, iframe, object, embed, form, link').length") == 0
    assert chromium.run("document.documentElement.scrollWidth") <= 390


def test_what_is_slipped_into_the_page_does_not_run(chromium: Browser, laboratory: Path, tmp_path: Path) -> None:
    slipped = "<script>window.stolen = 1</script><img src='x' onerror='window.stolen = 2'><style>p{color:red}</style>"
    path = tmp_path / "slipped.html"
    path.write_text(laboratory.read_text().replace("<main>", f"<main>{slipped}"))
    chromium.open(path)
    assert chromium.run("window.stolen") is None
    assert len(chromium.complaints()) >= 3


def test_the_style_is_all_in_the_page() -> None:
    for name in ("figure.css", "page.css"):
        assert "url(" not in pages.stylesheet(name) and "@import" not in pages.stylesheet(name)
