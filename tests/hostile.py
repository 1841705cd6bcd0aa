"""Hostile files: made of a sound one, each with the words by which it must be refused."""

import bz2
import gzip
import json
import lzma
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from bench.analyze.check.safety import MAX_BYTES, MAX_RECORDS, MAX_STRINGS, MAX_VALUES
from bench.record import MAX_DEPTH

Make = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Hostile:
    """`make` gives the bytes from those of a sound file; `says` stands in a finding of level `error`."""

    name: str
    make: Make
    says: str


def cases() -> list[Hostile]:
    """All of them, except those that are no bytes but something else in the file system."""
    return [
        *_other_formats(),
        *_encodings(),
        *_syntax(),
        *_numbers(),
        *_repeated(),
        *_sizes(),
        *_words(),
        *_texts(),
        *_lies(),
    ]


# Something else altogether


def _other_formats() -> Iterator[Hostile]:
    bomb = b"\0" * (16 << 20)
    yield Hostile("empty", lambda _: b"", "no whole line")
    yield Hostile("no newline", lambda sound: sound.split(b"\n")[0], "no whole line")
    yield Hostile("newlines", lambda _: b"\n" * 100, "line 1")
    yield Hostile("zeros", lambda _: b"\0" * 4096 + b"\n", "line 1")
    yield Hostile("gzip", gzip.compress, "compressed (gzip)")
    yield Hostile("gzip bomb", lambda _: gzip.compress(bomb, 9), "compressed (gzip)")
    yield Hostile("gzip of gzip bomb", lambda _: gzip.compress(gzip.compress(bomb, 9)), "compressed (gzip)")
    yield Hostile("xz bomb", lambda _: lzma.compress(bomb, preset=0), "compressed (xz)")
    yield Hostile("bzip2 bomb", lambda _: bz2.compress(bomb[: 4 << 20]), "compressed (bzip2)")
    yield Hostile("zip bomb", _zip, "compressed (zip)")
    yield Hostile("zstandard", lambda _: b"\x28\xb5\x2f\xfd" + b"\xff" * 100 + b"\n", "compressed (Zstandard)")
    yield Hostile("lz4", lambda _: b"\x04\x22\x4d\x18" + b"\xff" * 100 + b"\n", "compressed (LZ4)")
    yield Hostile("7z", lambda _: b"7z\xbc\xaf\x27\x1c" + b"\0" * 100 + b"\n", "compressed (7z)")
    yield Hostile("pickle", lambda _: pickle.dumps({"kind": "session"}) + b"\n", "line 1")
    yield Hostile("pickle that calls", lambda _: b"cos\nsystem\n(S'touch /tmp/owned'\ntR.\n", "line 1")
    yield Hostile("yaml that calls", lambda _: b"!!python/object/apply:os.system ['touch owned']\n", "line 1")
    yield Hostile("html", lambda _: b"<script>alert(1)</script>\n", "line 1")
    yield Hostile("xml entities", lambda _: b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>\n', "line 1")
    yield Hostile("csv formula", lambda _: b"=cmd|' /C calc'!A0\n", "line 1")
    yield Hostile("shell", lambda _: b"#!/bin/sh\ntouch owned\n", "line 1")
    yield Hostile("elf", lambda _: b"\x7fELF\x02\x01\x01" + b"\0" * 64 + b"\n", "line 1")
    yield Hostile("pdf", lambda _: b"%PDF-1.7\n%\xe2\xe3\n", "line 1")
    yield Hostile(
        "one json document", lambda sound: json.dumps([json.loads(x) for x in _lines(sound)]).encode() + b"\n", "line 1"
    )


def _zip(sound: bytes) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../owned.jsonl", b"\0" * (8 << 20))
    return out.getvalue()


def _encodings() -> Iterator[Hostile]:
    yield Hostile("utf-8 mark", lambda sound: b"\xef\xbb\xbf" + sound, "byte order mark")
    yield Hostile("utf-16", lambda sound: sound.decode().encode("utf-16"), "UTF-16")
    yield Hostile("utf-16 big", lambda sound: b"\xfe\xff" + sound.decode().encode("utf-16-be"), "UTF-16")
    yield Hostile("utf-16 without mark", lambda sound: sound.decode().encode("utf-16-le"), "line 1")
    yield Hostile("utf-32", lambda sound: sound.decode().encode("utf-32-be"), "line 1")
    yield Hostile("utf-7", lambda sound: b"+AHs-" + sound[1:], "line 1")
    yield Hostile("ebcdic", lambda sound: sound.decode().encode("cp037") + b"\n", "line 1")
    yield Hostile("mark on the second line", lambda sound: sound.replace(b"\n", b"\n\xef\xbb\xbf", 1), "line 2")
    for name, raw in {
        "latin-1": b"\xe9",
        "overlong slash": b"\xc0\xaf",
        "overlong zero": b"\xc0\x80",
        "encoded surrogate": b"\xed\xa0\x80",
        "surrogate pair in utf-8": b"\xed\xa0\x80\xed\xb0\x80",
        "beyond unicode": b"\xf4\x90\x80\x80",
        "cut sequence": b"\xe2\x82",
        "lone continuation": b"\x80",
        "five bytes": b"\xf8\x88\x80\x80\x80",
        "never used byte": b"\xff",
    }.items():
        yield Hostile(name, _put(b'"reason":null', b'"reason":"' + raw + b'"'), "line 2")
    for name, escape in {
        "high surrogate": b"\\ud800",
        "low surrogate": b"\\udc00",
        "surrogates turned": b"\\udc00\\ud800",
        "half a pair": b"\\ud83dx",
        "short escape": b"\\u12",
        "escape of no digits": b"\\uzzzz",
        "hexadecimal escape": b"\\x41",
        "octal escape": b"\\101",
        "escape of nothing": b"\\",
        "unknown escape": b"\\q",
    }.items():
        yield Hostile(name, _put(b'"reason":null', b'"reason":"' + escape + b'"'), "line 2")


def _syntax() -> Iterator[Hostile]:
    deep = 100_000
    for name, old, new, says in [
        ("comma at the end", b'"flags":[]', b'"flags":[],', "line 2"),
        ("comma in a list", b'"flags":[]', b'"flags":[,]', "line 2"),
        ("comma missing", b'"round":0,', b'"round":0 ', "line 2"),
        ("colon missing", b'"round":0', b'"round" 0', "line 2"),
        ("line comment", b'"round":0', b'"round":0 // nought\n', "line 2"),
        ("block comment", b'"round":0', b'"round":/* nought */0', "line 2"),
        ("single quotes", b'"flags":[]', b"'flags':[]", "line 2"),
        ("no quotes", b'"flags":[]', b"flags:[]", "line 2"),
        ("undefined", b'"reason":null', b'"reason":undefined', "line 2"),
        ("None", b'"reason":null', b'"reason":None', "line 2"),
        ("True", b'"round":0', b'"round":True', "line 2"),
        ("a call", b'"round":0', b'"round":__import__("os").system("touch owned")', "line 2"),
        ("template", b'"round":0', b'"round":{{7*7}}', "line 2"),
        ("raw line feed", b'"reason":null', b'"reason":"a\nb"', "line 2"),
        ("raw tab", b'"reason":null', b'"reason":"a\tb"', "line 2"),
        ("raw escape", b'"reason":null', b'"reason":"\x1b[2J"', "line 2"),
        ("raw zero", b'"reason":null', b'"reason":"a\0b"', "line 2"),
        ("unclosed string", b'"reason":null', b'"reason":"', "line 2"),
        ("unclosed list", b'"flags":[]', b'"flags":[', "line 2"),
        ("closed twice", b'"flags":[]', b'"flags":[]]', "line 2"),
        ("deep lists", b'"flags":[]', b'"flags":' + b"[" * deep + b"]" * deep, "nested deeper"),
        ("deep lists unclosed", b'"flags":[]', b'"flags":' + b"[" * deep, "nested deeper"),
        ("deep objects", b'"extras":{}', b'"extras":' + b'{"a":' * deep + b"1" + b"}" * deep, "nested deeper"),
        ("just too deep", b'"flags":[]', b'"flags":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "nested deeper"),
        (
            "deep in an unknown field",
            b'"flags":[]',
            b'"x":' + b"[" * deep + b"]" * deep + b',"flags":[]',
            "nested deeper",
        ),
    ]:
        yield Hostile(name, _put(old, new), says)
    yield Hostile(
        "two records on a line", lambda sound: b"\n".join(_lines(sound)[:2]) + _lines(sound)[2] + b"\n", "line 2"
    )
    yield Hostile("an empty line", lambda sound: sound.replace(b"\n", b"\n\n", 1), "line 2")
    yield Hostile("a line of spaces", lambda sound: sound.replace(b"\n", b"\n   \n", 1), "line 2")
    yield Hostile("a record first", lambda sound: b"\n".join(reversed(_lines(sound))) + b"\n", "line 1")
    yield Hostile("two sessions", lambda sound: sound * 2, "line 7")
    yield Hostile("newer format", _put(b'"schema":1', b'"schema":2', line=0), "update accelmark")
    yield Hostile("format zero", _put(b'"schema":1', b'"schema":0', line=0), "never existed")
    yield Hostile(
        "deep in a newer format", _put(b'"schema":1', b'"x":' + b"[" * deep + b',"schema":9', line=0), "nested deeper"
    )
    for root in (
        b"null",
        b"true",
        b"1",
        b'"session"',
        b"[]",
        b"{}",
        b'{"kind":"session"}',
        b'{"kind":1}',
        b'{"kind":[]}',
    ):
        yield Hostile(f"only {root.decode()}", lambda _, root=root: root + b"\n", "line 1")  # type: ignore[misc]


def _numbers() -> Iterator[Hostile]:
    for text in (
        "NaN",
        "-NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "inf",
        "1e999",
        "-1e999",
        "1e31",
        "-1",
        "-0.001",
        "1e",
        "1e+",
        ".5",
        "5.",
        "+1",
        "01",
        "0x10",
        "1_000",
        "1,5",
        "1e-",
        "--1",
        "\u0661",
        "true",
        "null",
        '"1"',
        "[1]",
        "{}",
        "1" + "0" * 400,
    ):
        yield Hostile(f"sample {text[:12]}", _put(b"0.001,", f"{text},".encode()), "line 2")
    for text in (
        "1.5",
        "1e3",
        "1.0",
        "-1",
        "true",
        "null",
        '"0"',
        "[]",
        "9007199254740993",
        "18446744073709551616",
        "9" * 30,
        "9" * 5000,
        "1e400",
        "NaN",
        "00",
        "-0x1",
    ):
        yield Hostile(f"round {text[:12]} {len(text)}", _put(b'"round":0', f'"round":{text}'.encode()), "line 2")
    for text in ("9007199254740993", "-9007199254740993", "1e31", "[64]", '{"m":64}', "null", "9" * 5000, "NaN"):
        yield Hostile(f"parameter {text[:12]}", _put(b'"m":64', f'"m":{text}'.encode()), "line 2")


def _repeated() -> Iterator[Hostile]:
    for field, old in {
        "schema": b'"schema":1',
        "id": b'"id":"',
        "vendor": b'"vendor":"',
        "version": b'"version":"',
        "cpu": b'"cpu":"',
    }.items():
        other = b"2," if field == "schema" else b'"x",'
        yield Hostile(
            f"two of {field}", _put(old, f'"{field}":'.encode() + other + old, line=0), f"'{field}' stands twice"
        )
    for field, old in {
        "kind": b'"kind":"record"',
        "workload": b'"workload":"matmul"',
        "m": b'"m":64',
        "dtype": b'"dtype":"float32"',
        "round": b'"round":0',
        "flags": b'"flags":[]',
        "samples_s": b'"samples_s":[',
        "repeats": b'"repeats":',
        "error": b'"error":',
    }.items():
        yield Hostile(f"two of {field}", _put(old, f'"{field}":null,'.encode() + old), f"'{field}' stands twice")
    yield Hostile("equal after decoding", _put(b'"m":64', b'"m":64,"\\u006d":65'), "'m' stands twice")
    yield Hostile("two tags", _put(b'"kind":"record"', b'"kind":"session","kind":"record"'), "'kind' stands twice")


def _sizes() -> Iterator[Hostile]:
    long, name = "x" * 1001, "x" * 201
    yield Hostile("large file", lambda sound: sound + b" " * MAX_BYTES, "larger than")
    yield Hostile("one long line", lambda sound: sound + b"x" * (9 << 20) + b"\n", "longer than")
    yield Hostile("many lines", lambda sound: sound + b"\n" * (MAX_RECORDS + 2), "lines, at most")
    yield Hostile("many values", lambda sound: sound + b"," * MAX_VALUES + b"\n", "values, at most")
    yield Hostile("many strings", lambda sound: sound + b'"' * (2 * MAX_STRINGS + 2) + b"\n", "strings, at most")
    yield Hostile("samples", _put(b"[0.001,", b"[" + b"0.001," * 100_001), "line 2")
    yield Hostile("long reason", _put(b'"reason":null', f'"reason":"{long}"'.encode()), "line 2")
    yield Hostile("long workload", _put(b'"workload":"matmul"', f'"workload":"{name}"'.encode()), "line 2")
    yield Hostile("long key", _put(b'"m":64', f'"{name}":64'.encode()), "line 2")
    yield Hostile("long value", _put(b'"m":64', f'"m":"{name}"'.encode()), "line 2")
    yield Hostile("long in escapes", _put(b'"reason":null', b'"reason":"' + b"\\u0041" * 1001 + b'"'), "line 2")
    yield Hostile("many parameters", _put(b'"m":64', _many(51) + b',"m":64'), "line 2")
    yield Hostile("many facts", _put(b'"extras":{}', b'"extras":{' + _many(51) + b"}"), "line 2")
    yield Hostile("many reasons", _put(b'"reasons":{', b'"reasons":{' + _many(201, '"x"') + b","), "line 2")
    yield Hostile("many flags", _put(b'"flags":[]', b'"flags":[' + b",".join([b'"xid"'] * 51) + b"]"), "line 2")
    yield Hostile("many devices", _session("devices", lambda devices: devices * 65), "line 1")
    yield Hostile("no devices", _session("devices", lambda devices: []), "device 0 of 0")
    yield Hostile("large plan", _session("plan", lambda plan: plan * 5001), "line 1")
    yield Hostile("many arguments", _session("argv", lambda argv: ["x"] * 201), "line 1")
    yield Hostile(
        "many protocols", _session("protocols", lambda known: {str(i): known["micro"] for i in range(11)}), "line 1"
    )
    yield Hostile("device 1", _put(b'"device":0', b'"device":1'), "device 1 of 1")
    yield Hostile("device 2**53", _put(b'"device":0', b'"device":9007199254740992'), "of 1")


def _words() -> Iterator[Hostile]:
    for old, new in [
        (b'"status":"ok"', b'"status":"fine"'),
        (b'"status":"ok"', b'"status":"OK"'),
        (b'"status":"ok"', b'"status":""'),
        (b'"flags":[]', b'"flags":["new"]'),
        (b'"flags":[]', b'"flags":[null]'),
        (b'"flags":[]', b'"flags":{}'),
        (b'"launch":"eager"', b'"launch":"lazy"'),
        (b'"clock":"virtual"', b'"clock":"sundial"'),
        (b'"duty":"sustained"', b'"duty":"lazy"'),
        (b'"cache":"cold_rotate"', b'"cache":"cold"'),
        (b'"kind":"record"', b'"kind":"Record"'),
        (b'"kind":"record"', b'"kind":null'),
        (b'"kind":"record",', b""),
        (b'"round":0', b'"round":0,"rate":1'),
        (b'"m":64', b'"m":64},"x":{'),
        (b'"repeats":', b'"__class__":1,"repeats":'),
        (b'"kind":"record"', b'"kind":"record","__reduce__":[]'),
        (b'"error":', b'"__proto__":{},"error":'),
        (b'"round":0,', b""),
        (b'"work":{', b'"work":null,"x":{'),
        (b'"identity":{', b'"identity":[],"x":{'),
        (b'"params":{', b'"params":[],"x":{'),
        (b'"extras":{}', b'"extras":[]'),
        (b'"extras":{}', b'"extras":{"a":null}'),
        (b'"extras":{}', b'"extras":{"a":{"b":1}}'),
        (b'"reason":null', b'"reason":0'),
        (b'"reason":null', b'"reason":[]'),
        (b'"samples_s":[', b'"samples_s":["0.001",'),
        (b'"samples_s":[', b'"samples_s":[null,'),
        (b'"gemm_flops":', b'"gemm_flops":-'),
    ]:
        yield Hostile(f"{old.decode()} as {new.decode()}"[:60], _put(old, new), "line 2")


def _texts() -> Iterator[Hostile]:
    """Accepted by the reader, because they are strings; refused by the check, because somebody will look at them."""
    for name, char in {
        "escape": "\\u001b[31m",
        "title": "\\u001b]0;owned\\u0007",
        "csi": "\\u009b2J",
        "bell": "\\u0007",
        "delete": "\\u007f",
        "return": "\\r",
        "line feed": "\\n",
        "tab": "\\t",
        "zero": "\\u0000",
        "backspace": "\\b\\b\\b",
        "override": "\\u202e",
        "embedding": "\\u202a",
        "isolate": "\\u2066",
        "mark": "\\u200f",
        "zero width": "\\u200b",
        "joiner": "\\u200d",
        "byte order": "\\ufeff",
        "soft hyphen": "\\u00ad",
        "line separator": "\\u2028",
        "paragraph": "\\u2029",
        "tag": "\\udb40\\udc41",
        "private": "\\ue000",
        "annotation": "\\ufff9",
    }.items():
        yield Hostile(f"text {name}", _put(b'"reason":null', f'"reason":"a{char}b"'.encode()), "characters in its text")
    escape = "\\u001b[31m"
    for name, old, new, line in [
        ("workload", '"workload":"matmul"', f'"workload":"{escape}"', 1),
        ("parameter", '"m":64', f'"{escape}":1,"m":64', 1),
        ("value", '"m":64', f'"m":"{escape}"', 1),
        ("fact", '"extras":{}', f'"extras":{{"{escape}":1}}', 1),
        ("fact's value", '"extras":{}', f'"extras":{{"a":"{escape}"}}', 1),
        ("dtype", '"dtype":"float32"', f'"dtype":"{escape}"', 1),
        ("data", '"data":"normal"', f'"data":"{escape}"', 1),
        ("reasons", '"reasons":{', f'"reasons":{{"{escape}":"x",', 1),
        ("begin", '"started":"', f'"started":"{escape}', 1),
        ("device", '"name":"', f'"name":"{escape}', 0),
        ("version", '"version":"', f'"version":"{escape}', 0),
        ("argument", '"argv":[', f'"argv":["{escape}",', 0),
        ("software", '"software":{', f'"software":{{"{escape}":"1",', 0),
        ("cpu", '"cpu":"', f'"cpu":"{escape}', 0),
        ("series", '"series":{', f'"series":{{"{escape}":{{"t_s":[],"values":[]}},', 1),
    ]:
        yield Hostile(f"text in {name}", _put(old.encode(), new.encode(), line=line), "characters in its text")


def _lies() -> Iterator[Hostile]:
    """Well formed, and untrue."""
    for name, old, new, says in [
        ("no samples", b"[" + b",".join([b"0.001"] * 8) + b"]", b"[]", "status ok with 0 samples"),
        ("a reason for nothing", b'"reason":null', b'"reason":"why not"', "needs no reason"),
        (
            "a failure that was measured",
            b'"status":"ok","reason":null',
            b'"status":"oom","reason":"x"',
            "status oom with 8",
        ),
        ("more work", b'"gemm_flops":', b'"gemm_flops":9', "not what these parameters come to"),
        ("tokens from nowhere", b'"tokens":0', b'"tokens":4096', "not what these parameters come to"),
        (
            "another type",
            b'"identity":{"dtype":"float32"',
            b'"identity":{"dtype":"bfloat16"',
            "and its parameters say float32",
        ),
        ("a number as a word", b'"m":64', b'"m":"64"', "m must be of type int"),
        ("true as a number", b'"m":64', b'"m":true', "m must be of type int"),
        ("no time", b"0.001,", b"0.0,", "took no time"),
        ("days", b"0.001,", b"9e9,", "more than days"),
        ("longer than its window", b"0.001,", b"900.0,", "in a window of"),
        ("a round too many", b'"round":0', b'"round":7', "round 7 of 2"),
        ("wrong output", b'"error":0.0', b'"error":0.5', "not flagged"),
        ("when", b'"started":"2026', b'"started":"yesterday 2026', "UTC times in ISO 8601"),
        ("stopped twice", b'"stop":"precise"', b'"stop":"time"', "which its flags contradict"),
        ("colder than space", b'"series":{', b'"series":{"temperature_c":{"t_s":[0],"values":[-300]},', "-300"),
        (
            "moments without values",
            b'"series":{',
            b'"series":{"clock_hz":{"t_s":[0],"values":[]},',
            "1 moments for 0 values",
        ),
        ("negative power", b'"series":{', b'"series":{"power_average_w":{"t_s":[0],"values":[-5]},', "-5 W"),
    ]:
        yield Hostile(f"lie: {name}", _put(old, new), says)
    yield Hostile("lie: twice", lambda sound: sound + _lines(sound)[1] + b"\n", "a second record of round 0")
    yield Hostile("lie: another chip", _session_text('"chip":null', '"chip":"h100-sxm"'), "whose driver never reports")
    yield Hostile("lie: begin", _put(b'"started":"', b'"started":"x', line=0), "no UTC time")


# Making them


def mutations(sound: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Files near a sound one: bytes flipped, cut, doubled and moved, tokens exchanged, lines shuffled; by seed."""
    rng = random.Random(seed)
    for _ in range(count):
        made = bytearray(sound)
        for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
            made = rng.choice(_EDITS)(rng, made)
        yield bytes(made)


def _flip(rng: random.Random, made: bytearray) -> bytearray:
    if made:
        made[rng.randrange(len(made))] = rng.randrange(256)
    return made


def _cut(rng: random.Random, made: bytearray) -> bytearray:
    begin = rng.randrange(len(made) + 1)
    del made[begin : begin + rng.choice((1, 3, 20, 500, len(made)))]
    return made


def _double(rng: random.Random, made: bytearray) -> bytearray:
    begin = rng.randrange(len(made) + 1)
    part = made[begin : begin + rng.choice((1, 10, 100, 2000))]
    at = rng.randrange(len(made) + 1)
    made[at:at] = part * rng.choice((1, 2, 50))
    return made


def _token(rng: random.Random, made: bytearray) -> bytearray:
    at = rng.randrange(len(made) + 1)
    made[at : at + rng.choice((0, 0, 1, 5))] = rng.choice(_TOKENS)
    return made


def _number(rng: random.Random, made: bytearray) -> bytearray:
    """Exchanges a run of digits."""
    digits = [place for place, char in enumerate(made) if 48 <= char <= 57]
    if digits:
        begin = end = rng.choice(digits)
        while end < len(made) and 48 <= made[end] <= 57:
            end += 1
        made[begin:end] = rng.choice((b"0", b"1", b"9" * 18, b"9" * 400, b"1e308", b"0.5", b"2", b"64", b"1000000"))
    return made


def _string(rng: random.Random, made: bytearray) -> bytearray:
    """Exchanges a string by another of the same file."""
    parts = bytes(made).split(b'"')
    if len(parts) > 3:
        parts[rng.randrange(1, len(parts))] = rng.choice(parts)
    return bytearray(b'"'.join(parts))


def _shuffle(rng: random.Random, made: bytearray) -> bytearray:
    lines = bytes(made).split(b"\n")
    rng.shuffle(lines)
    return bytearray(b"\n".join(lines))


_EDITS = (_flip, _cut, _double, _token, _number, _number, _string, _string, _shuffle)
_TOKENS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"\n",
    b"null",
    b"true",
    b"NaN",
    b"1e999",
    b"-",
    b"\0",
    b"\xff",
    b"\\ud800",
    b"\xef\xbb\xbf",
    b"[[[[[[[[[[[[[[[[[[[[",
    b'{"a":' * 20,
    b'"' * 9,
    b"\xe2\x80\xae",
    b"\x1b[2J",
    b"../../../etc/passwd",
    b"=1+1",
    b'"kind":"session"',
    b'"kind":"record"',
    b"<script>",
    b"%s%s%n",
    b"{0.__class__}",
    b"$(touch owned)",
    b"`id`",
)


def _lines(content: bytes) -> list[bytes]:
    return content.splitlines()


def _put(old: bytes, new: bytes, *, line: int = 1) -> Make:
    """Exchanges the first `old` of a line, which must be there."""

    def make(sound: bytes) -> bytes:
        lines = _lines(sound)
        assert old in lines[line], old
        lines[line] = lines[line].replace(old, new, 1)
        return b"\n".join([*lines, b""])

    return make


def _session(field: str, change: Callable[[Any], Any]) -> Make:
    """Changes a field of the first line."""

    def make(sound: bytes) -> bytes:
        lines = _lines(sound)
        session = json.loads(lines[0])
        session[field] = change(session[field])
        return b"\n".join([json.dumps(session).encode(), *lines[1:], b""])

    return make


def _session_text(old: str, new: str) -> Make:
    return _put(old.encode(), new.encode(), line=0)


def _many(count: int, value: str = "1") -> bytes:
    return ",".join(f'"k{number}":{value}' for number in range(count)).encode()
