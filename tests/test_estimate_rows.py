"""Rows of a stranger's table: whatever stands in their cells, an estimate is finite and positive or has a reason."""

import csv
import errno
import os
import random
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.estimate import published
from bench.estimate.rows import estimate_rows

CELLS = (
    "", "-1", "0", "-0.0", "nan", "inf", "1e400", "1e9", "999999999999", "7.5", "2048.0", "16x", "1/2", "abc", "None",
    "true", "A100,H100", "\x00", "😀",
)  # fmt: skip
BOUNDS = ("lo80", "hi80", "lo90", "hi90")


@pytest.mark.parametrize("kind", ["training", "inference", "micro"])
def test_garbled_cells_give_a_finite_number_or_a_reason(kind: str, tmp_path: Path) -> None:
    chance, known = random.Random(11), published.rows(kind, trusted=False)
    rows = [dict(chance.choice(known)) for _ in range(600)]
    for row in rows:
        row.update({column: chance.choice(CELLS) for column in chance.sample(list(row), chance.randint(0, 6))})
    write(tmp_path / "rows.csv", rows)
    counts = estimate_rows(tmp_path / "rows.csv", tmp_path / "out.csv")
    assert counts["estimated"] > 200 and counts["refused"] > 20
    for row in read(tmp_path / "out.csv"):
        said = [row[name] for name in row if name.startswith("pred_") or name in BOUNDS]
        assert all(0 < float(value) < 1e30 for value in said if value), row
        assert any(said) != bool(row["reason"])


@pytest.mark.parametrize(
    ("kind", "phase", "cells", "reason"),
    [
        ("micro", "gemm", {"batch": "inf"}, "batch is 'inf'"),
        ("micro", "collective", {"n_gpus": "1e9"}, "n_gpus is '1e9'"),
        ("training", "pretrain", {"n_gpus": "1e400"}, "n_gpus is inf"),
        ("training", "pretrain", {"gbs_seqs": "nan"}, "gbs_seqs is nan"),
        ("training", "pretrain", {"n_gpus": "8.5"}, "a whole number"),
        ("inference", "prefill", {"input_len": "0"}, "a prefill needs input_len"),
        ("inference", "prefill+decode, offline batch", {"input_len": "0", "output_len": "0"}, "nothing to do"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    kind: str, phase: str, cells: dict[str, str], reason: str, tmp_path: Path
) -> None:
    column = {"training": "task", "inference": "phase", "micro": "kind"}[kind]
    like = next(row for row in published.rows(kind) if row[column] == phase)
    write(tmp_path / "rows.csv", [like | cells])
    assert estimate_rows(tmp_path / "rows.csv", tmp_path / "out.csv")["refused"] == 1
    assert reason in read(tmp_path / "out.csv")[0]["reason"]


def test_a_count_with_an_exponent_is_the_number_that_it_writes(tmp_path: Path) -> None:
    like = next(row for row in published.rows("training") if row["seq_len"] == "2048" and row["source_id"] == "foundry")
    write(tmp_path / "rows.csv", [like, like | {"seq_len": "2.048e3"}])
    estimate_rows(tmp_path / "rows.csv", tmp_path / "out.csv")
    first, second = (row["pred_tok_s_gpu"] for row in read(tmp_path / "out.csv"))
    assert first == second


def test_a_column_with_the_name_of_an_answer_is_kept(tmp_path: Path) -> None:
    like = next(row for row in published.rows("training") if row["source_id"] == "mbridge")
    write(tmp_path / "rows.csv", [like])
    estimate_rows(tmp_path / "rows.csv", tmp_path / "out.csv")
    (first,) = read(tmp_path / "out.csv")
    assert (first["given_evidence"], first["evidence"]) == ("vendor_benchmark", "L1")
    assert {name: cell for name, cell in first.items() if name in like and name != "evidence"} == {
        name: cell for name, cell in like.items() if name != "evidence"
    }
    estimate_rows(tmp_path / "out.csv", tmp_path / "again.csv")  # asked again: what was given stays, answers go
    (again,) = read(tmp_path / "again.csv")
    assert again["given_evidence"] == "vendor_benchmark" and again["pred_tok_s_gpu"] == first["pred_tok_s_gpu"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "rows.csv", [dict(published.rows("micro")[0])])
    (tmp_path / "out.csv").write_text("of yesterday")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(csv.DictWriter, "writerows", full)
    with pytest.raises(UserError, match="No space left"):
        estimate_rows(tmp_path / "rows.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "rows.csv"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_that_takes_nothing_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "rows.csv", [dict(published.rows("micro")[0])])
    with pytest.raises(UserError, match="cannot write /dev/full"):
        estimate_rows(tmp_path / "rows.csv", Path("/dev/full"))


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
