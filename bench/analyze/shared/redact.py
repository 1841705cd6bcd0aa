"""Redact: takes out of a run whatever may identify a person or a machine, before it leaves the house.

Two kinds of traces. Some are known by their form: paths, addresses, UUIDs, serial numbers. Others are known only here:
the names of this user and this host, and words that the user adds. Both are sought in every string of a file; what has
no business in a field at all, such as a raw UUID where its hash belongs, is replaced whatever it says.

A run that was measured elsewhere can hold that machine's names, which this one does not know: hence `hide`.
"""

import getpass
import ipaddress
import os
import platform
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from bench import chip, model, record, workload
from bench.analyze.shared import texts
from bench.errors import private, without_paths
from bench.record import DeviceFacts, Record, ResultFile, Session
from bench.text import plain

# Names that many machines and accounts share tell nobody apart, and stand in texts for other reasons.
_COMMON = frozenset(
    {
        *("root", "user", "users", "admin", "administrator", "guest", "nobody"),
        *("test", "default", "main", "home", "none"),
        *("ubuntu", "debian", "fedora", "centos", "rocky", "ec2-user", "opc", "jovyan", "vscode", "runner"),
        *("docker", "container", "localhost", "localdomain", "local", "host", "node", "server", "python", "torch"),
        *("linux", "darwin", "windows", "cpu", "gpu", "gpus", "npu", "cuda", "rocm", "virtual", "auto"),
        *("nvidia", "amd", "intel", "apple", "ascend", "huawei", "eager", "graph", "queued", "normal", "tokens"),
        *("accelmark", "benchmark", "results", "quick", "standard", "full"),
    }
)
# What a batch system, an account or a shell calls this machine and its user.
_VARIABLES = (
    *("USER", "LOGNAME", "USERNAME", "SUDO_USER", "HOSTNAME", "COMPUTERNAME", "HOST"),
    *("SLURM_JOB_USER", "SLURM_JOB_ACCOUNT", "SLURM_CLUSTER_NAME", "SLURMD_NODENAME", "PBS_O_LOGNAME", "PBS_O_HOST"),
)
_SHORTEST = 3  # characters: shorter names would be found in everything

_UUID = re.compile(
    r"(?i)(?:(?:GPU|MIG)-){0,2}+(?<![0-9a-f])[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)
_MAC = re.compile(r"(?i)(?<![0-9a-f])[0-9a-f]{2}([:-])[0-9a-f]{2}(?:\1[0-9a-f]{2}){4,6}(?![0-9a-f])")
_MAIL = re.compile(r"[\w.+-]{1,64}@[\w-][\w.-]{0,200}")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_IPV6 = re.compile(r"[0-9A-Fa-f:]{7,}+(?:%\w+)?(?!\w)")
_DOTTED = re.compile(r"(?<![\w.-])[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)++")
_INTERNAL = re.compile(r"(?i).*\.(?:local|lan|intranet|internal|localdomain|edu|(?:ac|edu)\.[a-z]{2})")
# The makers' numbers have 10 to 14 digits or letters and follow their name; NVIDIA's have 13 digits.
_SERIAL = re.compile(r"(?i)\b(serial(?:[ _-]?(?:number|no))?|s/n)([^\w\n]{1,3})(?=[\w-]*\d)[\w-]{4,}")
_LONG = 13
_LONG_NUMBER = re.compile(rf"(?<![\w.])\d{{{_LONG},}}+(?![\w.])")
_HOME = re.compile(r"~\w[\w.-]*")

_VERSION = re.compile(r"\d+(?:\.\d+)+")
# Versions may look like addresses, and moments like nothing else.
_VERSIONS = {"software", "driver", "version", "kernel"}
_MOMENTS = {"started", "ended"}
# Fields whose words are the program's own, and are held against its lists when the file is read.
_OURS = {"status", "flags", "launch", "cache", "duty", "clock", "stop", "method"}
_HASH, _HASHES = re.compile(r"[0-9a-f]{8,64}"), {"id", "uuid_hash", "commit", "receipt"}

_SPEC = re.compile(r"[a-z]+(?::\d{1,3})?")


def patterns(text: str, *, version: bool = False) -> tuple[str, set[str]]:
    """The text without what is known by its form, and what kinds of that were in it."""
    kinds: set[str] = set()
    if text.isidentifier() or (text.isalnum() and len(text) < _LONG):
        return text, kinds  # a single word
    for kind, signs, least, found, put in _FORMS:
        # Counting a character is a hundred times faster than a search, and most texts have none of these.
        if max(map(text.count, signs)) < least or (kind == "address" and version and _VERSION.fullmatch(text)):
            continue
        changed = found.sub(put, text)
        if changed != text:
            kinds.add(kind)
            text = changed
    changed = without_paths(text) if "/" in text or "\\" in text else text
    if changed != text:
        kinds.add("path")
    return changed, kinds


def identifying(line: Session | Record, found: Iterable[tuple[str, str]]) -> list[str]:
    """The kinds of what is known by its form in a line, of which `found` are the strings with their fields."""
    kinds = set()
    for field, text in found:
        if not _told_apart(field, text):
            kinds |= patterns(text, version=field in _VERSIONS)[1]
    if isinstance(line, Session):
        if any(facts.uuid_hash and not _HASH.fullmatch(facts.uuid_hash) for facts in line.devices):
            kinds.add("UUID")
        if not _HASH.fullmatch(line.id):
            kinds.add("run id")
    return sorted(kinds)


def clean(text: str, hide: Iterable[str] = ()) -> str:
    """A single text as it may leave the house."""
    return _Cleaner(hide)("", text)


def redacted(file: ResultFile, hide: Iterable[str] = ()) -> tuple[ResultFile, dict[str, int]]:
    """The run as it may leave the house, and how many strings were changed, by kind of what was in them."""
    cleaner = _Cleaner(hide)
    session = file.session
    session = msgspec.structs.replace(
        session,
        id=session.id if _HASH.fullmatch(session.id) else record.anonymous(session.id),
        argv=[private(word) for word in session.argv],
        devices=[_device(facts, number) for number, facts in enumerate(session.devices)],
    )
    cleaner.count(["path"] * sum(map(str.__ne__, file.session.argv, session.argv)))
    cleaned = msgspec.structs.replace(
        file,
        session=texts.replaced(session, cleaner),
        records=[texts.replaced(one, cleaner) for one in file.records],
    )
    return cleaned, cleaner.counts


class _Cleaner:
    """Changes texts, and counts by kind how many it changed."""

    def __init__(self, hide: Iterable[str]) -> None:
        own = {word for word in hide if word}
        self.counts: dict[str, int] = {}
        self._mask = _mask(own_words() | own, spared=vocabulary() - {word.lower() for word in own})

    def __call__(self, field: str, text: str) -> str:
        """The text without what identifies; `field` is where it stands."""
        if field in _OURS or _told_apart(field, text):
            return text
        found, kinds = patterns(text, version=field in _VERSIONS)
        named = self._mask(found)
        made = named if named.isprintable() else plain(named, limit=1000)
        self.count([*kinds, *["name"] * (named != found), *["control character"] * (made != named)])
        return made

    def count(self, kinds: Iterable[str]) -> None:
        """One more text with each of these."""
        for kind in kinds:
            self.counts[kind] = self.counts.get(kind, 0) + 1


def own_words() -> set[str]:
    """The names of this user and this host, as far as the system tells them without asking the network."""
    names = [os.environ.get(name, "") for name in _VARIABLES]
    host = platform.node()
    names += [host, host.partition(".")[0], host.partition(".")[2], _home_name()]
    try:
        names.append(getpass.getuser())
    except (OSError, KeyError, ImportError):  # an account that no list of users has
        pass
    names += _full_name()
    return {name for name in names if len(name) >= _SHORTEST and name.lower() not in _COMMON}


def vocabulary() -> set[str]:
    """Words of this program's own, in small letters: a user called llama does not take the model out of a file."""
    names = {*workload.names(), *model.names(), *chip.names(), *workload.DTYPE_BYTES}
    drivers = (name for each in chip.names() for name in chip.find(each).driver_names)
    words = {word for name in [*names, *drivers] for word in re.split(r"[^A-Za-z0-9]+", name)}
    return {word.lower() for word in {*names, *words}}


def _mask(words: Iterable[str], spared: set[str]) -> Callable[[str], str]:
    """Replaces each of the words where it stands by itself, in any case of letters."""
    sought = sorted({word for word in words if word.lower() not in spared}, key=len, reverse=True)
    if not sought:
        return lambda text: text
    any_of = re.compile(rf"(?i)(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, sought))})(?![A-Za-z0-9])")
    return lambda text: any_of.sub("<name>", text)


def _told_apart(field: str, text: str) -> bool:
    """Moments, and hashes, which may consist of digits alone: what stands there is no free text."""
    return field in _MOMENTS or (field in _HASHES and _HASH.fullmatch(text) is not None)


def _device(facts: DeviceFacts, number: int) -> DeviceFacts:
    """A device by the place that it has, not by a UUID that somebody named it by; and the UUID as its hash."""
    told = facts.uuid_hash
    return msgspec.structs.replace(
        facts,
        spec=facts.spec if _SPEC.fullmatch(facts.spec) else f"{facts.vendor}:{number}",
        uuid_hash=told if told is None or _HASH.fullmatch(told) else record.anonymous(told),
    )


def _home_name() -> str:
    try:
        return Path.home().name
    except RuntimeError:  # no home is known
        return ""


def _full_name() -> list[str]:
    """The user's name as the system's list of accounts has it, whole and in parts."""
    try:
        import pwd
    except ImportError:  # Windows
        return []
    try:
        told = pwd.getpwuid(os.getuid()).pw_gecos.partition(",")[0]
    except KeyError:
        return []
    return [told, *re.split(r"\W+", told)]


def _address(found: re.Match[str]) -> str:
    """An address is one that the library takes for one: a version of five parts, or a time of day, is none."""
    text = found[0].partition("%")[0]
    text = text[1:] if text[:1] == ":" != text[1:2] else text  # what comes after a word and a colon
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return found[0]
    return "<address>"


def _host(found: re.Match[str]) -> str:
    """A name with dots is that of a host where its last part is one that only hosts have."""
    return "<host>" if _INTERNAL.fullmatch(found[0]) else found[0]


# Kind, characters of which a text with it has so many of one, how it is found, and what is put there.
_FORMS: tuple[tuple[str, str, int, re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    ("UUID", "-", 4, _UUID, "<uuid>"),
    ("hardware address", "-:", 5, _MAC, "<address>"),
    ("e-mail address", "@", 1, _MAIL, "<mail>"),
    ("address", ".", 3, _IPV4, _address),
    ("address", ":", 2, _IPV6, _address),
    ("host name", ".", 1, _DOTTED, _host),
    ("serial number", "sS", 1, _SERIAL, r"\1\2<serial>"),
    ("serial number", "0123456789", 2, _LONG_NUMBER, "<number>"),
    ("home", "~", 1, _HOME, "<home>"),
)
