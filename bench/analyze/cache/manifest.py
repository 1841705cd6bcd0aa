"""Manifest: which result files a store has read, and what came of each. SQLite, beside the Parquet parts.

A file is known by path, size and time of change; where these differ it is read, and its SHA-256 decides. Each version
of a file gets a number that is never used again, and every stored row carries it: the rows of a changed or removed file
are masked simply because their number is in the manifest no longer.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# A file that changed so shortly before it was looked at may change again within the same tick of its file system's
# clock. It is looked at again next time (git has the same rule for its index, and calls it racy).
RACY_NS = 2_000_000_000
NEVER = -1

_TABLES = """
create table if not exists files (
    path text primary key, size integer, mtime_ns integer, sha256 text, id integer, part text, run text, error text
) without rowid;
create index if not exists runs on files (run, part);
create index if not exists places on files (part);
create view if not exists not_counted as select path, part from files a
    where part is not null
    and run in (select run from files where part is not null group by run having count(*) > 1)
    and path > (select min(path) from files b where b.run = a.run and b.part is not null);
create table if not exists parts (name text primary key, files integer, bytes integer) without rowid;
create table if not exists facts (name text primary key, value text) without rowid;
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of one file. `part` has its rows; `error` says why there are none."""

    path: str
    size: int
    mtime_ns: int
    sha256: str | None
    id: int
    part: str | None
    run: str | None
    error: str | None


class Manifest:
    """The database. Every change is one transaction."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=60)
        self._connection.executescript(_TABLES)

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()

    def known(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file, as last seen."""
        rows = self._connection.execute("select path, size, mtime_ns from files")
        return {path: (size, mtime_ns) for path, size, mtime_ns in rows}

    def entry(self, path: str) -> Entry | None:
        """What is known of a file."""
        found = self._connection.execute("select * from files where path = ?", (path,)).fetchone()
        return None if found is None else Entry(**dict(zip(Entry.__dataclass_fields__, found, strict=True)))

    def next_id(self) -> int:
        """A number above every one that was ever given."""
        (highest,) = self._connection.execute(
            "select max(cast(value as integer)) from facts where name = 'id'"
        ).fetchone()
        return int(highest or 0) + 1

    def write(
        self, entries: Iterable[Entry] = (), *, gone: Iterable[str] = (), parts: Iterable[tuple[str, int, int]] = ()
    ) -> None:
        """Adds or replaces entries, forgets the gone, adds parts (name, files, bytes): all of it or nothing."""
        added = [tuple(getattr(one, name) for name in Entry.__dataclass_fields__) for one in entries]
        with self._connection as transaction:
            transaction.executemany("insert or replace into files values (?, ?, ?, ?, ?, ?, ?, ?)", added)
            transaction.executemany("delete from files where path = ?", [(path,) for path in gone])
            transaction.executemany("insert or replace into parts values (?, ?, ?)", parts)
            if added:
                highest = max(self.next_id() - 1, *(row[4] for row in added))
                transaction.execute("insert or replace into facts values ('id', ?)", (str(highest),))

    def merge(self, old: list[str], new: tuple[str, int, int]) -> None:
        """Several parts have become one."""
        with self._connection as transaction:
            transaction.executemany("update files set part = ? where part = ?", [(new[0], name) for name in old])
            transaction.executemany("delete from parts where name = ?", [(name,) for name in old])
            transaction.execute("insert or replace into parts values (?, ?, ?)", new)

    def forget_empty_parts(self) -> None:
        """Parts of which every file is gone."""
        with self._connection as transaction:
            transaction.execute("delete from parts where name not in (select part from files where part is not null)")

    def parts(self) -> dict[str, tuple[int, int]]:
        """Number of files and bytes of each part, as written."""
        rows = self._connection.execute("select name, files, bytes from parts order by name")
        return {name: (files, size) for name, files, size in rows}

    def counted(self) -> dict[str, int]:
        """How many files count in each part: of several files of one run that of the first path."""
        every = "select part, count(*) from files where part is not null group by part"
        found = dict(self._connection.execute(every).fetchall())
        for part, number in self._connection.execute("select part, count(*) from not_counted group by part"):
            found[part] -= number
        return found

    def numbers(self, part: str) -> list[int]:
        """The numbers that count in a part."""
        query = "select id from files where part = ? and path not in (select path from not_counted) order by id"
        return [number for (number,) in self._connection.execute(query, (part,))]

    def errors(self) -> list[tuple[str, str]]:
        """Files that could not be read, and why."""
        return self._connection.execute("select path, error from files where error is not null order by 1").fetchall()

    def copies(self) -> list[tuple[str, str]]:
        """Files of a run that another file has too, and that file."""
        query = """select path, (select min(path) from files b where b.run = a.run) first from files a
                   where run in (select run from files where run is not null group by run having count(*) > 1)
                   and path != first order by 1"""
        return self._connection.execute(query).fetchall()

    def fact(self, name: str) -> str | None:
        """Something remembered."""
        found = self._connection.execute("select value from facts where name = ?", (name,)).fetchone()
        return found[0] if found else None

    def remember(self, name: str, value: str) -> None:
        """Remembers something."""
        with self._connection as transaction:
            transaction.execute("insert or replace into facts values (?, ?)", (name, value))
