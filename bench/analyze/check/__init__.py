"""Check: whether a file is what it says it is. Each finding says where, with its numbers, and what to do.

First whether it is safe to read (`safety`), then whether it is a result file at all (bench/record), then whether it
contradicts itself (`contradiction`), whether hardware can do what it says (`physics`, `order`), and last whether other
machines with the same chip did anything like it (`band`). This very check runs before a submission and on the table.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from bench import record
from bench.analyze.check import band, contradiction, order, physics, safety
from bench.analyze.check.band import Bands
from bench.analyze.check.finding import Doubt, Finding, Level
from bench.analyze.shared import place, redact, texts
from bench.analyze.summary import summarize
from bench.record import BadFile, Key, Record, ResultFile, Session
from bench.text import plain

__all__ = ["Bands", "Beside", "Finding", "Level", "check", "judge", "nobody", "quarantined"]

Beside = Callable[[ResultFile], Bands | None]


def nobody(file: ResultFile) -> Bands | None:
    """No other machine is known."""
    return None


def check(path: str | os.PathLike[str], beside: Beside = nobody, *, published: bool = False) -> list[Finding]:
    """Everything found in the file at `path`; empty for one that is whole and sound.

    `beside`: gives what other machines of the shared table measured. `published`: the file lies in the shared table, or
    is to, where nothing may identify a person or a machine and nothing simulated counts.
    """
    try:
        content = safety.content(path)
    except BadFile as error:
        return [_refusal(os.fspath(path), error)]
    return judge(os.fspath(path), content, beside, published=published)


def judge(name: str, content: bytes, beside: Beside = nobody, *, published: bool = False) -> list[Finding]:
    """The same for the bytes of a file that lies, or will lie, at `name`."""
    try:
        file = record.parse(Path(name).name, content)
    except BadFile as error:
        return [_refusal(name, error)]
    lines = {id(one): number for number, one in enumerate(file.records, start=2)}
    found = [
        Finding(file=plain(name), line=line, level=level, code=code, message=plain(message, 600))
        for line, level, code, message in [*_texts(file, published), *_doubts(file, beside(file), lines, published)]
    ]
    return sorted(found, key=lambda one: one.line or 0)


def quarantined(
    files: Sequence[ResultFile], table: Iterable[ResultFile] | None = None, *, accepted: Iterable[str] = ()
) -> dict[Key, list[str]]:
    """The cases that nothing may be calibrated by, and why: what `check` finds wrong with them, or far from the others.

    A record is looked up by `(session.id, record.device, record.key())`. `table` is what they are set beside, without
    it all of `files`; `accepted` are the ids of files whose distance from the others somebody has looked at.
    """
    bands, looked_at = Bands(files if table is None else table), set(accepted)
    known: dict[str, contradiction.Expected] = {}
    found: dict[Key, list[str]] = {}
    for file in files:
        for doubt in _physical(file, None if place.file_id_of(file.name) in looked_at else bands, known):
            of_all = doubt.level == "error" and not doubt.records
            for one in (file.records if of_all else doubt.records) if doubt.level != "note" else ():
                found.setdefault((file.session.id, one.device, one.key()), []).append(plain(doubt.message, 600))
    return {key: list(dict.fromkeys(messages)) for key, messages in found.items()}


def _doubts(
    file: ResultFile, bands: Bands | None, lines: dict[int, int], published: bool
) -> Iterator[tuple[int | None, Level, str, str]]:
    for doubt in _physical(file, bands, {}):
        places = [lines[id(one)] for one in doubt.records if id(one) in lines]
        yield min(places, default=None), doubt.level, doubt.code, doubt.message
    simulated = [facts.name for facts in file.session.devices if facts.vendor == "virtual"]
    if published and simulated:
        yield None, "error", "virtual", f"{simulated[0]} is a simulation: the table holds what was measured"


def _physical(file: ResultFile, bands: Bands | None, known: dict[str, contradiction.Expected]) -> Iterator[Doubt]:
    summaries = summarize([file])
    yield from contradiction.doubts(file, known)
    yield from physics.doubts(file, summaries)
    yield from order.doubts(summaries)
    if bands is not None:
        yield from band.doubts(summaries, bands)


def _texts(file: ResultFile, published: bool) -> Iterator[tuple[int | None, Level, str, str]]:
    length = 0
    lines: list[Session | Record] = [file.session, *file.records]
    for number, line in enumerate(lines, start=1):
        found = list(texts.texts(line))
        length += sum(len(text) for _, text in found)
        if length > safety.MAX_TEXT:
            say = f"over {safety.MAX_TEXT} characters of text: no run of ours has so much to say"
            yield number, "error", "text", say
            return
        if message := safety.unsafe(text for _, text in found):
            yield number, "error", "text", message
        if kinds := redact.identifying(line, found):
            what = f"its text holds what may identify a person or a machine ({', '.join(kinds)})"
            yield number, "error" if published else "note", "privacy", f"{what}: `accelmark submit` takes it out"


def _refusal(name: str, error: BadFile) -> Finding:
    message = plain(str(error).removeprefix(f"{Path(name).name}: "), 600)
    return Finding(file=plain(name), line=None, level="error", code="unreadable", message=message)
