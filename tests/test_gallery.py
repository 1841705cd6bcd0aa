"""The gallery: results/README.md says what the files beside it say, and nobody edits it by hand."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import record
from bench.analyze import foretold, gallery
from bench.analyze.shared import place

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def results(tmp_path: Path, golden: Path) -> Path:
    """A shared table of one machine, beside runs that are not part of it."""
    for name in ("virtual/0123", "local", "published/elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(golden, tmp_path / "virtual/0123/20261125T171341Z-3da816eb.jsonl")
    (tmp_path / "local/broken.jsonl").write_text("not a result file")
    (tmp_path / "published/elsewhere/broken.jsonl").write_text("neither")
    return tmp_path


def test_the_gallery_of_this_repository_is_current() -> None:
    assert gallery.whole(ROOT / "results") == (ROOT / "results" / "README.md").read_text(encoding="utf-8"), (
        "run scripts/gallery and commit results/README.md"
    )


def test_a_machine_has_its_place_date_commit_and_headline_figures(results: Path) -> None:
    (line,) = [line for line in gallery.gallery(results).splitlines() if "virtual/0123" in line]
    for said in ("Virtual GPU", "2026-11-25", "9b0497219b23 changed", "700 W", "500 TFLOP/s (bfloat16)", "2.00 TB/s",
                 "64,000 tok/s (llama-3.2-1b)", "133 tok/s (llama-3.1-8b)", "28 of 28"):  # fmt: skip
        assert said in line


def test_a_file_that_is_refused_is_named_and_in_no_row(results: Path) -> None:
    (results / "virtual/0123/bad.jsonl").write_text("{}\n")
    text = gallery.gallery(results)
    assert "| bad.jsonl" in text and "error" in text
    assert "1 machine," in text


def test_nothing_yet_says_how_to_be_the_first(tmp_path: Path) -> None:
    text = gallery.gallery(tmp_path)
    assert "There are no results here yet" in text and "scripts/accelmark submit" in text


def test_further_tables_stand_below(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"machine": "a|b", "error": 0.123456}, {"machine": "<c>", "error": None}]
    text = gallery.gallery(tmp_path, {"Error of estimates": rows, "Calibration": []})
    assert "## Error of estimates" in text and "## Calibration" not in text
    assert "a\\|b" in text and "&lt;c&gt;" in text and "0.123" in text


def test_a_strangers_strings_end_no_cell(hostile: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "x" / "y"
    folder.mkdir(parents=True)
    shutil.move(hostile, folder / "h.jsonl")
    text = gallery.gallery(tmp_path / "results")
    assert "<script" not in text and "](" not in text.replace("\\]", "")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table[:3]}) == 1


def test_check_says_with_its_status_whether_it_is_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gallery, "__file__", str(tmp_path / "bench" / "analyze" / "gallery.py"))
    (tmp_path / "results").mkdir()
    assert gallery.main(["--check"]) == 1
    assert "run scripts/gallery" in capsys.readouterr().err
    assert gallery.main([]) == 0 and gallery.main(["--check"]) == 0
    (tmp_path / "results" / "README.md").write_text("by hand")
    assert gallery.main(["--check"]) == 1 and gallery.main(["--wrong"]) == 2


def test_a_run_is_estimated_from_the_quick_of_its_machine_that_is_nearest_in_time() -> None:
    """Of two sittings the second ran twice as fast: its steps say nothing of an estimate from the first."""
    early, _, late, later = (record.read(path) for path in sorted((ROOT / "results").glob("amd-epyc/*/*.jsonl"))[:4])
    assert (early.session.suite, late.session.suite, later.session.suite) == ("quick", "quick", "standard")
    expected = foretold.sections([late, later])["Estimates of what `quick` did not have"]
    assert expected and foretold.sections([early, late, later])["Estimates of what `quick` did not have"] == expected
    elsewhere = msgspec.structs.replace(late.session.host, cpu="another")
    other = msgspec.structs.replace(late, session=msgspec.structs.replace(late.session, host=elsewhere))
    assert not foretold.sections([other, later])["Estimates of what `quick` did not have"]


def test_a_machine_keeps_its_place_when_its_kernel_reserves_other_memory(build: Any) -> None:
    session = build.session()
    device = msgspec.structs.replace(session.devices[0], uuid_hash=None, memory_bytes=24 << 30)
    host = msgspec.structs.replace(session.host, memory_bytes=24 << 30)
    less = [msgspec.structs.replace(one, memory_bytes=(24 << 30) - 446_464) for one in (device, host)]
    assert place.folder(build.session(devices=[device], host=host)) == place.folder(
        build.session(devices=[less[0]], host=less[1])
    )
