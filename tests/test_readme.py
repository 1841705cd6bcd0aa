"""The pages are what a new user has: what they promise must be there."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from bench import workload
from bench.cli import main
from bench.device import vendors

ROOT = Path(__file__).resolve().parent.parent
README, METHOD, ESTIMATES, SHARING = (
    (ROOT / f"{name}.md").read_text() for name in ("README", "METHOD", "ESTIMATES", "SHARING")
)
PAGES = "\n".join([README, METHOD, ESTIMATES, SHARING])
BLOCKS = re.findall(r"```\w*\n(.*?)```", PAGES, re.S)
SPEC = importlib.util.spec_from_file_location("examples", ROOT / "scripts" / "examples.py")
examples = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(examples)
EXAMPLES = examples.examples(README)
NUMBER = re.compile(r"\d[\d,]*\.?\d*")
LINES = [
    re.split(r"\s{2,}|\s*\)$", found[0])[0]
    for block in BLOCKS
    for found in re.finditer(
        r"(?:scripts/)?accelmark (?:run|show|check|table|compare|devices|list|selfcheck|submit|report|calibrate)\b.*",
        block,
    )
]


def test_the_two_commands_stand_first():
    first, second = (block.strip() for block in BLOCKS[:2])
    assert first == "scripts/accelmark run --suite quick"
    assert second == "scripts/test"


@pytest.mark.parametrize("line", LINES)
def test_every_printed_command_exists_with_its_options(line):
    _, name, *words = shlex.split(line)
    command = main.get_command(None, name)
    options = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        if word.startswith("--"):
            assert word in options, line


def test_all_worked_examples_are_found():
    assert len(EXAMPLES) == README.count("\n$ accelmark ") >= 5


@pytest.mark.parametrize(("command", "printed"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_a_worked_example_is_what_the_program_prints(command, printed):
    """To 1 %: processors differ in the last digit of a sum. When it differs: `scripts/examples`."""
    said = examples.printed(command, assumed="assumed:" in printed)
    assert NUMBER.sub("#", said) == NUMBER.sub("#", printed)
    for here, there in zip(NUMBER.findall(said), NUMBER.findall(printed), strict=True):
        assert float(here.replace(",", "")) == pytest.approx(float(there.replace(",", "")), rel=0.01), (here, there)


def test_the_check_runs_the_printed_test_command():
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text()


def test_every_workload_and_every_vendor_is_named():
    for name in workload.names():
        assert f"`{name}`" in METHOD.partition("## What is measured")[2].partition("\n## ")[0]
    status = README.partition("## Status")[2].lower()
    for vendor in vendors():
        assert vendor in status or vendor == "cpu", vendor


def test_files_that_it_points_to_exist():
    for name in re.findall(r"[A-Z]+\.md|results/schema\.json|workloads/matmul\.py", PAGES):
        assert (ROOT / name).exists(), name


def test_the_errors_that_it_prints_are_those_that_later_versions_are_held_to():
    """When they differ: `scripts/backtest --store`, and the table anew from what it prints."""
    stored = json.loads((ROOT / "bench" / "estimate" / "coefficients" / "backtest.json").read_text())
    table = README.partition("| left out | rows |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines() if row.startswith("| ")]
    shown = {row[0]: (row[1], row[3], row[4]) for row in rows}
    assert shown == {
        one["group"]: (f"{one['rows']:,}", *(f"{100 * one[name]:.1f} %" for name in ("median", "p90")))
        for one in stored
    }


def test_a_file_that_a_comment_points_to_exists():
    for folder in ("bench", "workloads", "scripts", "tests"):
        for source in (ROOT / folder).rglob("*.py"):
            text = source.read_text(encoding="utf-8")
            for name in re.findall(r"(?<![\w/])(?:bench|workloads|tests)/[\w/]+\.py\b", text):
                assert (ROOT / name).exists(), f"{source.name} points to {name}"


def test_the_first_page_has_what_a_newcomer_looks_for():
    sections = re.findall(r"(?m)^##+ (.*)", README)
    for name in ("What you get", "Commands", "What will it take?", "How far off it is", "On a GPU", "Torch", "Status"):
        assert name in sections
    columns = (
        "| command |", "| left out | rows |", "| building the store", "| work | Xeon: here |",
        "| part | state |",
    )  # fmt: skip
    for column in columns:
        assert column in README
    assert README.count("\n") < 560, "what is not for newcomers has pages of its own"


@pytest.mark.parametrize("name", ["README", "METHOD", "ESTIMATES", "SHARING"])
def test_a_link_leads_to_a_heading_that_is_there(name):
    links = re.findall(r"\]\(([^)]*)\)", (ROOT / f"{name}.md").read_text())
    assert links
    for link in links:
        page, _, heading = link.partition("#")
        headings = re.findall(r"(?m)^#+ (.*)", (ROOT / page).read_text())
        slugs = [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings]
        assert not heading or heading in slugs, link


def test_what_has_not_met_a_gpu_says_so():
    assert "has not run on a GPU yet" in README.partition("## Status")[2]
