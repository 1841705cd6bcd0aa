"""History: notices take files out and delete nothing; whoever submitted can prove it, and nobody else can."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from bench.analyze.shared import author, history, place
from bench.analyze.shared.history import Notice
from bench.analyze.table import expand
from bench.errors import UserError
from bench.record import BadFile

ONE, TWO = "a" * 16, "b" * 16


@pytest.fixture(autouse=True)
def _own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def laid(folder: Path, *ids: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"20260101T000000Z-{each}.jsonl" for each in ids]
    for path in paths:
        path.write_bytes(b"{}\n")
    return paths


def notice(folder: Path, **fields: Any) -> Path:
    made = Notice(**{"reason": "planted", **fields})
    (folder / made.file_name()).write_bytes(made.content())
    return folder / made.file_name()


def test_retracted_and_superseded_files_are_left_out_of_folders_and_kept_on_disk(tmp_path: Path) -> None:
    one, two, three = laid(tmp_path / "chip" / "machine", ONE, TWO, "c" * 16)
    assert expand([tmp_path]) == [one, two, three]
    notice(one.parent, action="retract", id=ONE)
    notice(one.parent, action="supersede", id=TWO, by="c" * 16)
    assert expand([tmp_path]) == [three]
    assert one.exists() and two.exists()
    assert expand([one]) == [one]  # who asks for it by name sees it


def test_an_acceptance_takes_nothing_out(tmp_path: Path) -> None:
    (one,) = laid(tmp_path / "chip" / "machine", ONE)
    notice(one.parent, action="accept", id=ONE)
    assert expand([tmp_path]) == [one]
    assert history.accepted(tmp_path) == {ONE}


def test_a_notice_works_only_beside_its_file(tmp_path: Path) -> None:
    (one,) = laid(tmp_path / "chip" / "machine", ONE)
    (tmp_path / "other").mkdir()
    notice(tmp_path / "other", action="retract", id=ONE)
    assert expand([tmp_path]) == [one]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"action":"delete","id":"aaaaaaaaaaaaaaaa","reason":"x"}',
        b'{"action":"retract","id":"../../etc/passwd","reason":"x"}',
        b'{"action":"retract","id":"aaaaaaaaaaaaaaaa","reason":""}',
        b'{"action":"retract","id":"aaaaaaaaaaaaaaaa","reason":"x","by":"bbbbbbbbbbbbbbbb"}',
        b'{"action":"supersede","id":"aaaaaaaaaaaaaaaa","reason":"x"}',
        b'{"action":"retract","id":"bbbbbbbbbbbbbbbb","reason":"x"}',
        b'{"action":"retract","id":"aaaaaaaaaaaaaaaa","reason":"x","more":1}',
        b"[" * 100_000,
        b"x" * 20_000,
        b'{"notice":2,"action":"retract","id":"aaaaaaaaaaaaaaaa","reason":"x"}',
    ],
)
def test_a_broken_notice_does_nothing(tmp_path: Path, content: bytes) -> None:
    (one,) = laid(tmp_path, ONE)
    path = tmp_path / f"{ONE}-retract.json"
    path.write_bytes(content)
    assert expand([tmp_path]) == [one]
    with pytest.raises(BadFile):
        history.read_notice(path)


def test_a_notice_that_is_a_link_does_nothing(tmp_path: Path) -> None:
    (one,) = laid(tmp_path / "table", ONE)
    elsewhere = notice(tmp_path, action="retract", id=ONE)
    (one.parent / elsewhere.name).symlink_to(elsewhere)
    assert expand([tmp_path / "table"]) == [one]


def test_only_the_key_that_submitted_opens_a_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = author.receipt(author.secret("run"))
    assert author.proves(author.secret("run"), receipt)
    assert not author.proves(author.secret("another run"), receipt)
    assert not author.proves(None, receipt)
    assert not author.proves(author.secret("run"), None)
    assert not author.proves(receipt, receipt)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody-else"))
    assert not author.proves(author.secret("run"), receipt)


def test_the_key_is_made_once_and_is_its_users_alone() -> None:
    first = author.secret("run")
    assert author.secret("run") == first
    assert stat.S_IMODE(author.key_file().stat().st_mode) == 0o600 or os.name == "nt"
    author.key_file().write_text("short")
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        author.secret("run")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20260101T000000Z-aaaaaaaaaaaaaaaa.jsonl", ONE),
        ("20260101T000000Z-aaaaaaaaaaaaaaaa.jsonl.gz", None),
        ("x-aaaaaaaaaaaaaaaa.jsonl", None),
        ("20260101T000000Z-AAAAAAAAAAAAAAAA.jsonl", None),
        ("r01.jsonl", None),
    ],
)
def test_an_id_is_told_by_the_name_of_a_submitted_file_alone(name: str, expected: str | None) -> None:
    assert place.file_id_of(name) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("AMD EPYC 7763 64-Core Processor", "amd-epyc-7763-64-core-processor"),
        ("Intel(R) Xeon(R) @ 2.20GHz", "intel-r-xeon-r-2-20ghz"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", None),
        ("", None),
        ("昇腾", None),
        ("\x1b[31m", "31m"),
        ("local", "chip-local"),
        ("CON", "chip-con"),
        ("COM1", "chip-com1"),
        ("x" * 500, "x" * 40),
        ("Gerät", "gerat"),
        ("/abs", "abs"),
        ("a\0b", "a-b"),
        (".hidden", "hidden"),
    ],
)
def test_a_folder_is_named_safely_whatever_the_driver_says(text: str, name: str | None) -> None:
    made = place.slug(text)
    assert place.FOLDER.fullmatch(made)
    assert made == name if name else made.startswith("unnamed-")
