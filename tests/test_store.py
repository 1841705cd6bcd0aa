"""The store: whatever happens to the files or to it, it gives the rows that reading all files would give."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.analyze import grouped, source, table, where
from bench.analyze.cache import columns, store, stored
from bench.analyze.cache.manifest import Manifest
from bench.analyze.cache.store import Store
from bench.analyze.cache.stored import Stored
from bench.analyze.folder import scan
from bench.errors import UserError

pytest.importorskip("pyarrow")
ROOT = Path(__file__).parents[1]
LONG_AGO = 1_600_000_000
SIZES = [{"m": m, "n": 64, "k": 64, "dtype": dtype} for m in (64, 128) for dtype in ("float32", "bfloat16")]


@pytest.fixture
def put(build: Any, tmp_path: Path) -> Callable[..., Path]:
    """Writes one run of one of five boards, long ago, with three cases of which one may have failed."""

    def make(number: int, *, scale: float = 1.0, name: str = "", age: bool = True) -> Path:
        device = build.session().devices[0]
        chip = ("h100-sxm", "l40s", None)[number % 3]
        device = type(device)(
            **{
                **{field: getattr(device, field) for field in device.__struct_fields__},
                "uuid_hash": f"board{number % 5:011d}", "chip": chip, "name": f"GPU {chip}",
                "readings": {"power_limit_w": 600.0 + 100 * (number % 2), "power_limit_default_w": 700.0},
            }
        )  # fmt: skip
        chance = random.Random(number)
        records = [
            build.record([scale * chance.uniform(1e-3, 2e-3) for _ in range(6)], params=params, flags=["power_limited"])
            for params in SIZES[:3]
        ]
        if number % 4 == 0:
            records.append(build.failed("oom", params=SIZES[3]))
        path = tmp_path / "results" / f"{chip}" / (name or f"{number:04d}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        file = build.file(
            records, name=path.name, id=f"{number:016x}", devices=[device], started=f"2026-0{1 + number % 9}"
        )
        build.write(path, file)
        if age:
            os.utime(path, (LONG_AGO, LONG_AGO))
        return path

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def opened(folder: Path, tmp_path: Path) -> Callable[[], Stored]:
    """The store as a fresh program would open it."""
    return lambda: stored.open_stored(folder, cache=tmp_path / "cache", note=print)


def kept(rows: list[table.Row]) -> list[str]:
    """Rows by the columns that a store has, in an order of their own."""
    known = {*columns.NAMES, "m", "n", "k", "runs", "machines", "rate_low", "rate_high"}
    return sorted(json.dumps({key: row[key] for key in sorted(known & row.keys())}) for row in rows)


def same_as_reading(opened: Stored, folder: Path) -> bool:
    return kept(opened.rows()) == kept(source.read([folder]).rows())


# What is in it


def test_it_has_the_rows_of_the_files(put: Any, opened: Any, folder: Path, golden: Path) -> None:
    for number in range(12):
        put(number)
    shutil.copy(golden, folder / "golden.jsonl")
    rows = opened().rows()
    assert same_as_reading(opened(), folder)
    assert {row["status"] for row in rows} == {"ok", "oom"}
    assert all(isinstance(row["flags"], list) for row in rows)
    assert {row["m"] for row in rows if row["file"] == "0000.jsonl"} == {64, 128}
    assert any("[from" in row["case"] or row["workload"] == "train_step" for row in rows)


def test_every_column_of_a_brief_row_is_stored(build: Any) -> None:
    file = build.file([build.record()])
    (row,) = store.ingest.brief_rows(file)
    assert set(row) == set(columns.NAMES)


@pytest.mark.parametrize(
    "wanted",
    [
        "", "dtype=float32", "dtype!=float32", "step_s<0.0015", "step_s>=0.0015", "m=64", "m!=64", "m>64", "case~M=128",
        "device~h100", "chip=None", "chip!=None", "chip=l40s,m=64", "status=oom", "status!=ok", "flags=power_limited",
        "flags!=power_limited", "flags~limited", "power_limit_w=700", "power_limit_w!=700", "step_s!=0.5", "rounds=1",
        "date>=2026-05", "date<2026-05", "step_s=None", "step_s!=None", "workload<rms_norm", "case~nothing", "rate~e",
        "version=1,method>0,threads!=3", "session=0000000000000003", "energy_method=None", "power_limit_share<0.9",
        "peak_memory_bytes=None", "workload=nothing,m=64",
    ],
)  # fmt: skip
def test_conditions_mean_the_same_as_on_rows(wanted: str, read_once: tuple[Stored, source.Files]) -> None:
    store_, files = read_once
    assert kept(store_.rows(wanted)) == kept(files.rows(wanted))
    assert store_.count(wanted) == files.count(wanted)


@pytest.fixture(scope="module")
def read_once(build: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stored, source.Files]:
    folder = tmp_path_factory.mktemp("read_once")
    write = put.__wrapped__(build, folder)  # type: ignore[attr-defined]
    for number in range(30):
        write(number)
    return stored.open_stored(folder / "results", cache=folder / "cache", note=print), source.read([folder / "results"])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("colour=red", "no row has a field 'colour': there are file, "),
        ("step_s<fast", "step_s is a number, 'fast' is none"),
        ("m<many", "m is a number"),
        ("m", "is no condition"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(wanted: str, message: str, read_once: Any) -> None:
    for rows in read_once:
        with pytest.raises(UserError, match=message):
            rows.rows(wanted)


@pytest.mark.parametrize("by", [None, "chip", "machine", "dtype", "m", "date", "power_limit_w", "workload", "host"])
def test_typical_runs_are_the_same_as_of_rows(by: str | None, read_once: Any) -> None:
    stored_, files = read_once
    fields = {*grouped.FIELDS, "runs", *([by] if by else [])}
    runs = stored_.typical(by=by), grouped.typical(files.rows(), by)  # in so many files nothing is put in quarantine
    assert stored_.quarantined is None
    found = [kept([{name: row.get(name) for name in fields} for row in made]) for made in runs]
    assert found[0] == found[1]
    groups = [kept(grouped.groups(made, by)) for made in runs]
    assert groups[0] == groups[1]


def test_a_frame_has_parameters_and_texts_as_columns(read_once: Any) -> None:
    pytest.importorskip("pandas")
    frames = [rows.frame("status=ok") for rows in read_once]
    assert len(frames[0]) == len(frames[1])
    assert sorted(frames[0]["m"]) == sorted(frames[1]["m"])
    assert frames[0].groupby("chip", observed=True)["step_s"].median().to_dict() == pytest.approx(
        frames[1].groupby("chip")["step_s"].median().to_dict()
    )


def test_rows_are_written_as_parquet(read_once: Any, tmp_path: Path) -> None:
    for rows in read_once:
        assert table.write_parquet(rows, "m=64", tmp_path / "x.parquet") == rows.count("m=64")
        found = columns.library().parquet.read_table(tmp_path / "x.parquet")
        assert set(found["m"].to_pylist()) == {64}
        assert {"case", "dtype", "step_s", "power_limit_w"} <= set(found.column_names)
    with pytest.raises(UserError, match="cannot write"):
        table.write_parquet(read_once[0], "", tmp_path / "nowhere" / "x.parquet")


def test_a_list_of_too_many_rows_is_refused(read_once: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MOST_ROWS", 5)
    with pytest.raises(UserError, match="narrow them with --where, group them with --by"):
        read_once[0].rows()


# How it keeps up


def test_only_what_changed_is_read(put: Any, folder: Path, tmp_path: Path) -> None:
    paths = [put(number) for number in range(6)]
    one = Store(folder, cache=tmp_path / "cache")
    assert one.refresh() == store.Refreshed(files=6, read=6)
    assert one.refresh() == store.Refreshed(files=6)
    os.utime(paths[0], (LONG_AGO + 5, LONG_AGO + 5))
    assert one.refresh() == store.Refreshed(files=6, touched=1)
    assert one.refresh() == store.Refreshed(files=6)
    put(1, scale=2.0)
    os.utime(paths[1], (LONG_AGO + 5, LONG_AGO + 5))
    paths[2].unlink()
    put(7)
    assert one.refresh() == store.Refreshed(files=6, read=2, removed=1)
    assert same_as_reading(Stored(one, folder), folder)


def test_a_file_that_just_changed_is_looked_at_again(put: Any, folder: Path, tmp_path: Path) -> None:
    """Within one tick of the clock of its file system it could change once more, unseen."""
    path = put(1, age=False)
    one = Store(folder, cache=tmp_path / "cache")
    one.refresh()
    before = path.stat()
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"m":128', b'"m":129'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert one.refresh().read == 1
    assert {row["m"] for row in Stored(one, folder).rows()} == {64, 129}


def test_whatever_happens_to_the_files_it_follows(put: Any, opened: Any, folder: Path) -> None:
    chance = random.Random(3)
    for step in range(15):
        there = [folder / name for name in scan(folder)] if folder.exists() else []
        for _ in range(chance.randrange(4)):
            act = chance.choice(["add", "add", "change", "remove", "touch", "copy", "spoil"])
            number = chance.randrange(40)
            if act in {"add", "change"} or not there:
                os.utime(put(number, scale=chance.uniform(1, 2)), (LONG_AGO + step, LONG_AGO + step))
            elif (path := chance.choice(there)).exists():
                if act == "remove":
                    path.unlink()
                elif act == "touch":
                    os.utime(path, (LONG_AGO + step, LONG_AGO + step))
                elif act == "copy":
                    shutil.copy(path, folder / f"copy{number}.jsonl")
                else:
                    path.write_bytes(path.read_bytes()[:-400] + b"}\n")
        if any(source_ok(folder / name) for name in scan(folder)) if folder.exists() else False:
            assert same_as_reading(opened(), folder), step
            assert opened().errors == source.read([folder]).errors


def source_ok(path: Path) -> bool:
    try:
        return bool(source.files([path]))
    except UserError:
        return False


def test_a_bad_file_stops_nothing_and_says_why(put: Any, opened: Any, folder: Path) -> None:
    for number in range(3):
        put(number)
    (folder / "bad.jsonl").write_text('{"kind":"session"}\n')
    found = opened()
    assert len({row["session"] for row in found.rows()}) == 3
    assert found.errors == [(str(folder / "bad.jsonl"), "bad.jsonl, line 1: Object missing required field `schema`")]
    shutil.copy(put(9), folder / "bad.jsonl")
    assert opened().errors == []
    assert len({row["session"] for row in opened().rows()}) == 4


def test_a_run_counts_once_and_its_copies_are_told(put: Any, opened: Any, folder: Path) -> None:
    first = put(1)
    for name in ("a/x.jsonl", "y.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(first, folder / name)
    found = opened()
    assert len(found.rows()) == 3
    first_path = str(folder / "a/x.jsonl")
    assert found.copies == [(str(first), first_path), (str(folder / "y.jsonl"), first_path)]
    (folder / "a" / "x.jsonl").unlink()
    found = opened()
    assert len(found.rows()) == 3
    assert found.copies == [(str(folder / "y.jsonl"), str(first))]


def test_links_hidden_names_and_other_files_are_not_read(put: Any, opened: Any, folder: Path, tmp_path: Path) -> None:
    path = put(1)
    (folder / ".hidden.jsonl").write_text("")
    (folder / "notes.txt").write_text("")
    (folder / "link.jsonl").symlink_to(path)
    (folder / "circle").symlink_to(folder)
    assert list(scan(folder)) == ["l40s/0001.jsonl"]
    assert opened().errors == []


def test_many_small_parts_become_one(put: Any, folder: Path, tmp_path: Path) -> None:
    one = Store(folder, cache=tmp_path / "cache")
    for number in range(store.MOST_SMALL + 3):
        put(number)
        one.refresh()
    parts = list((one.place / "parts").iterdir())
    assert len(parts) <= 3
    assert same_as_reading(Stored(one, folder), folder)


# What may happen to it


def test_it_is_built_anew_when_it_is_gone_or_damaged(put: Any, folder: Path, tmp_path: Path) -> None:
    for number in range(4):
        put(number)
    one = Store(folder, cache=tmp_path / "cache")
    one.refresh()
    (part,) = (one.place / "parts").iterdir()

    def cut() -> None:
        part.write_bytes(part.read_bytes()[:100])

    damages: list[Callable[[], object]] = [
        lambda: shutil.rmtree(one.place / "parts"),
        lambda: (one.place / "manifest.db").unlink(),
        lambda: (one.place / "manifest.db").write_bytes(b"not a database, and long enough to be looked at" * 99),
        cut,
    ]
    for damage in damages:
        damage()
        again = Store(folder, cache=tmp_path / "cache")
        again.refresh()
        assert same_as_reading(Stored(again, folder), folder)
        (part,) = (one.place / "parts").iterdir()


def test_a_crash_before_the_manifest_names_a_part_leaves_nothing_behind(
    put: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(1)
    one = Store(folder, cache=tmp_path / "cache")
    one.refresh()
    put(2)
    write = Manifest.write

    def crash(self: Manifest, entries: Any = (), **more: Any) -> None:
        if entries:
            raise KeyboardInterrupt
        write(self, entries, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", crash)
        with pytest.raises(KeyboardInterrupt):
            one.refresh()
    assert len(list((one.place / "parts").iterdir())) == 2
    again = Store(folder, cache=tmp_path / "cache")
    assert again.refresh().read == 1
    assert len(list((one.place / "parts").iterdir())) == 2
    assert same_as_reading(Stored(again, folder), folder)


def test_other_code_reads_everything_again(
    put: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(1)
    one = Store(folder, cache=tmp_path / "cache")
    one.refresh()
    monkeypatch.setattr(store, "_code", lambda: "another")
    assert one.refresh().read == 1


def test_several_processes_may_build_and_read_it_at_once(put: Any, folder: Path, tmp_path: Path) -> None:
    for number in range(20):
        put(number)
    code = (
        "import sys; from pathlib import Path; from bench.analyze.cache import stored\n"
        "found = stored.open_stored(Path(sys.argv[1]), cache=Path(sys.argv[2]), note=print)\n"
        "print(found.count(), len(found.errors))"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {process.communicate(timeout=60)[0] for process in running} == {"65 0\n"}


def test_many_files_are_read_by_several_processes(
    put: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        put(number)
    (folder / "bad.jsonl").write_text("{}\n")
    monkeypatch.setattr(store, "FEW_FILES", 2)
    said: list[str] = []
    one = Store(folder, cache=tmp_path / "cache", note=said.append)
    assert one.refresh().read == 13
    assert said[0].startswith("reading 13 result files, once")
    assert same_as_reading(Stored(one, folder), folder)
    assert [path for path, _ in one.errors()] == ["bad.jsonl"]


def test_a_place_that_cannot_be_written_is_said(folder: Path, put: Any, tmp_path: Path) -> None:
    put(1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose a place with --cache"):
        Store(folder, cache=tmp_path / "file")


def test_the_place_follows_the_users_cache_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert store.cache_folder(folder).parent == Path("/somewhere/accelmark")
    assert store.cache_folder(folder) != store.cache_folder(folder / "other")


# When it is used


def test_a_small_folder_needs_none_of_the_libraries(put: Any, folder: Path) -> None:
    for number in range(3):
        put(number)
    code = (
        "import sys, bench; assert bench.table([sys.argv[1]]); bench.grouped([sys.argv[1]], by='chip')\n"
        "assert not {'pyarrow', 'pandas', 'numpy', 'sqlite3'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=True)


def test_a_large_folder_is_read_by_its_store(
    put: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        put(number)
    monkeypatch.setattr(source, "WORTHWHILE_FILES", 5)
    assert isinstance(source.open_source([folder], cache=tmp_path), Stored)
    assert isinstance(source.open_source([folder, folder], cache=tmp_path), source.Files)
    (folder / "l40s" / "0001.jsonl").unlink()
    assert isinstance(source.open_source([folder], cache=tmp_path), source.Files)


def test_row_groups_without_such_rows_are_not_read(
    put: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "GROUP_ROWS", 6)
    for number in range(12):
        put(number)
    one = Store(folder, cache=tmp_path / "cache")
    one.refresh()
    (part,) = (one.place / "parts").iterdir()
    metadata = columns.library().parquet.read_metadata(part)

    def groups(wanted: str) -> int:
        return len(store._row_groups(metadata, where.parse(wanted)))

    assert groups("") == groups("flags=power_limited") == groups("device~none") == groups("chip!=l40s") == 7
    assert groups("device=GPU l40s") == groups("chip=None,device=GPU l40s") == 3
    assert groups("step_s<0") == groups("step_s>9") == groups("rounds=7") == groups("device=zzz") == 0
    assert groups("step_s>0") == 7


def test_rows_of_one_workload_lie_together(
    build: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file has all workloads, so groups that followed the files would all have to be read."""
    monkeypatch.setattr(columns, "GROUP_ROWS", 10)
    softmax, copy = {"rows": 4, "columns": 8, "dtype": "float32"}, {"num_bytes": 4096, "dtype": "float32"}
    cases = {"softmax": softmax, "matmul": SIZES[0], "memory_copy": copy}
    folder.mkdir()
    for number in range(20):
        records = [build.record(workload=name, params=params) for name, params in cases.items()]
        build.write(
            folder / f"{number:02d}.jsonl", build.file(records, name=f"{number:02d}.jsonl", id=f"{number:016x}")
        )
    found = stored.open_stored(folder, cache=tmp_path / "cache", note=print)
    (part,) = found._store._parts.iterdir()
    metadata = columns.library().parquet.read_metadata(part)
    read = {name: len(store._row_groups(metadata, where.parse(f"workload={name}"))) for name in cases}
    assert (metadata.num_row_groups, read) == (6, {"softmax": 2, "matmul": 2, "memory_copy": 2})
    assert [row["file"] for row in found.rows("workload=matmul")] == [f"{number:02d}.jsonl" for number in range(20)]
    assert same_as_reading(found, folder)


def test_nothing_but_a_frame_loads_pandas(put: Any, folder: Path, tmp_path: Path) -> None:
    for number in range(6):
        put(number)
    program = (
        "import sys; from pathlib import Path; from bench.analyze.cache import stored\n"
        "found = stored.open_stored(Path(sys.argv[1]), cache=Path(sys.argv[2]), note=print)\n"
        "found.typical('step_s>0', 'chip'); found.rows('m=64,flags~power,clock_hz=None'); found.count('step_s~1')\n"
        "sys.exit('pandas' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(folder), str(tmp_path / "cache")]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode == 0
