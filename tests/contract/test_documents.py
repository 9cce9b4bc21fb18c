# SPDX-License-Identifier: BSD-2-Clause
"""The documents agree with the code that they describe."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from importlinter import api
from tracewheel.runtime.spec import catalogue, shapes

CHECKOUT = Path(__file__).parents[2]
RUNTIME = CHECKOUT / "pytools/tracewheel/runtime"
README = CHECKOUT / "README.md"
ARCHITECTURE = CHECKOUT / "docs/architecture.md"
ADDING_A_TOOL = CHECKOUT / "docs/adding-a-tool.md"
DOCUMENTS = [README, CHECKOUT / "CONTRIBUTING.md", *sorted(CHECKOUT.glob("docs/*.md"))]
SHAPES = (shapes.Stream, shapes.Histogram, shapes.Counts, shapes.Top, shapes.Stacks)


def section(document: Path, heading: str) -> str:
    """Return the text below a heading, up to the next heading of any level."""
    _, _, rest = document.read_text().partition(f"\n{heading}\n")
    return re.split(r"(?m)^#+ ", rest)[0]


def tables_in(text: str) -> list[list[list[str]]]:
    """Return the tables of a text; a table is a list of rows, a row a list of cells."""
    tables = []
    for lines in re.findall(r"(?m)(?:^\|.*\n)+", text):
        rows = [line.strip("|").split("|") for line in lines.splitlines()]
        _, ruler, *body = [[cell.strip() for cell in row] for row in rows]
        assert {"---"} == set(ruler)
        tables.append(body)
    return tables


def names_in(table: list[list[str]]) -> list[str]:
    """Return the names in code style of a table's first column."""
    return [name for row in table for name in re.findall(r"`([^`]+)`", row[0])]


def fields_of(declared: type) -> list[str]:
    """Return the names of the fields that a class declares."""
    return list(declared.__annotations__)


def without_code(text: str) -> str:
    """Return a text without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def test_readme_lists_each_tool() -> None:
    """The table of the README has each tool once, with the description of its module."""
    (table,) = tables_in(section(README, "## The tools").partition("\nEvery tool")[0])

    names = catalogue.tool_names()
    assert [[f"`{name}`", catalogue.load_tool(name)[1]] for name in names] == table


def test_architecture_names_each_module() -> None:
    """Each module of the runtime has one line, and each line a module."""
    expected = [
        str(path.relative_to(RUNTIME).with_suffix(""))
        for path in RUNTIME.rglob("*.py")
        if path.stem != "__init__"
    ]
    _, _, text = ARCHITECTURE.read_text().partition("\n## The modules\n")
    tables = tables_in(text.partition("\n## Where to add what\n")[0])

    assert sorted(expected) == sorted(name for table in tables for name in names_in(table))


def test_architecture_has_the_layers_that_are_checked() -> None:
    """The layers are those of the contract that import-linter checks, in its order."""
    contracts = api.read_configuration(str(CHECKOUT / "pyproject.toml"))["contracts_options"]
    (layers,) = [each["layers"] for each in contracts if each["type"] == "layers"]
    (table,) = tables_in(section(ARCHITECTURE, "## The layers"))

    expected = [[name.split(".")[-1] for name in layer.split(" | ")] for layer in layers]
    assert expected == [names_in([row]) for row in table]


@pytest.mark.parametrize("declared", [shapes.Option, shapes.Column, shapes.Uprobes])
def test_each_field_is_explained(declared: type) -> None:
    """The page on adding a tool explains each field of a declared value, in its order."""
    (table,) = tables_in(section(ADDING_A_TOOL, f"### `{declared.__name__}`"))

    assert fields_of(declared) == names_in(table)


def test_each_field_of_shapes_is_explained() -> None:
    """A first table explains the fields that all shapes have, one table for each the others."""
    heading = "### `Stream`, `Histogram`, `Counts`, `Top` and `Stacks`"
    shared, *own = map(names_in, tables_in(section(ADDING_A_TOOL, heading)))

    expected = [set(fields_of(shape)) for shape in SHAPES]
    assert set.intersection(*expected) == set(shared)
    assert expected == [{*shared, *fields} for fields in own]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Each link to a file of the project leads to one."""
    links = re.findall(r"\]\(([^)]+)\)", without_code(document.read_text()))
    files = [link.partition("#")[0] for link in links if "://" not in link]

    assert [] == [name for name in files if not (document.parent / name).exists()]


def test_there_are_links() -> None:
    """The documents lead to each other, so that the test above has something to follow."""
    linked = {
        (document.parent / link).resolve()
        for document in DOCUMENTS
        for link in re.findall(r"\]\(([^)#]+\.md)\)", document.read_text())
    }

    assert {*DOCUMENTS} - {README} <= linked


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_of_dev_exist(document: Path) -> None:
    """Each command of ./dev that a document shows is one that ./dev explains."""
    shown = subprocess.run([CHECKOUT / "dev", "-h"], check=True, capture_output=True, text=True)
    known = set(re.findall(r"(?m)^  (\w+)", shown.stdout))

    assert set(re.findall(r"\./dev (\w+)", document.read_text())) <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(document: Path) -> None:
    """Each path of a folder of the project that a document names exists."""
    tops = "bench|bpf_src|docs|libbpf_shim|pytools|runtime|tests|vmlinux"
    # A pattern or a name in capitals stands for many; the example is made by the reader.
    named = re.findall(rf"`((?:{tops})/[\w./-]*)`", without_code(document.read_text()))
    named = [path for path in named if "umasksnoop" not in path and not re.search("[A-Z]", path)]
    roots = (CHECKOUT, CHECKOUT / "pytools/tracewheel")
    made = {"bench/results/"}

    found = {path for path in named for root in roots if (root / path).exists()}
    assert set(named) - made == found - made
