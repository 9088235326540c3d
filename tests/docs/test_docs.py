"""The docs keep their word: links lead somewhere, and commands, flags and imports exist."""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.offers import flags_of, parser_of

from dqn_zoo.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
WIDEST = 120
FENCE = re.compile(r"^( *(?:> )?)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def of_every_page(*unfinished: str) -> pytest.MarkDecorator:
    """Run a test with each page; for those that are unfinished a failure is expected."""
    mark = pytest.mark.xfail(reason="not yet wrapped")
    return pytest.mark.parametrize(
        "page",
        [pytest.param(each, marks=mark if each.name in unfinished else ()) for each in PAGES],
        ids=lambda page: str(page.relative_to(ROOT)),
    )


def prose(page: Path) -> str:
    """Return a page without its blocks of code; the lines keep their numbers."""
    return FENCE.sub(lambda block: "\n" * block[0].count("\n"), page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return what GitHub makes of the headings: lower case, hyphens, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def console_lines(page: Path) -> Iterator[str]:
    """Yield the commands of the blocks for a shell, continued lines as one."""
    for _, language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in ("console", "bash", ""):
            yield from re.sub(r"\\\n\s*", "", code).splitlines()


def own_command(line: str) -> list[str] | None:
    """Return the words of a command of this project, up to a pipe; None for another line."""
    found = re.match(r"(?:\$ |srun )?(dqn-[a-z0-9-]+\s.*|dqn-[a-z0-9-]+$)", line.strip())
    if found is None:
        return None
    words = shlex.split(found[1], comments=True)
    ends = [index for index, word in enumerate(words) if word in ("|", ">", "...")]
    return words[: min(ends, default=len(words))]


@of_every_page()
def test_prose_is_at_most_120_columns_wide(page):
    lines = enumerate(prose(page).splitlines(), start=1)
    wide = [
        f"line {number}: {len(line)} columns"
        for number, line in lines
        if len(line) > WIDEST and not line.lstrip().startswith("|")
    ]
    assert not wide


@of_every_page()
def test_links_lead_to_files_and_headings(page):
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert not dead


@of_every_page()
def test_commands_are_understood_by_their_parsers(page):
    """Commands in blocks are parsed whole, with their values."""
    for line in console_lines(page):
        words = own_command(line)
        if words is None:
            continue
        try:
            parser_of(words[0]).parse_args(words[1:])
        except UserError as error:
            pytest.fail(f"{line.strip()}: {error}")
        except SystemExit:  # --help, which prints and ends
            continue


@of_every_page()
def test_flags_in_sentences_are_known_to_the_command_they_stand_with(page):
    for span in re.findall(r"`(dqn-[a-z0-9-]+\s[^`]+)`", prose(page)):
        command, *words = span.replace("\n", " ").split()
        known = flags_of(parser_of(command))
        flags = {re.split(r"[=.,]", word)[0] for word in words if re.match(r"--?[a-z]", word)}
        assert flags <= known, f"{span}: {flags - known}"


@of_every_page()
def test_code_that_is_named_stands_in_its_file(page):
    """As in "`learning/losses.py`: `TDLoss`, `CategoricalLoss`", "`Explorer` in `schedules.py`"."""
    text = " ".join(prose(page).split())
    name = r"`[A-Za-z_][\w.]*`(?!:)"
    named = re.findall(rf"`([\w/]+\.py)`: ({name}(?:(?:,| and) {name})*)", text)
    named += [
        (file, names)
        for names, file in re.findall(rf"({name}(?:(?:,| and) {name})*) in `([\w/]+\.py)`", text)
    ]
    for file, names in named:
        code = (ROOT / "dqn_zoo" / file).read_text(encoding="utf-8")
        for each in re.findall(r"[\w.]+", names.replace(" and ", " ")):
            last = each.rpartition(".")[2]
            assert re.search(rf"^ *(?:def |class )?{last}\b(?: =|:|\()", code, re.MULTILINE), (
                file,
                each,
            )


def test_the_pages_name_code_and_flags_that_are_looked_at():
    pages = [prose(page) for page in PAGES]
    assert sum(len(re.findall(r"`(dqn-[a-z0-9-]+\s[^`]+)`", each)) for each in pages) > 80
    assert sum(len(re.findall(r"`[\w/]+\.py`: `", each)) for each in pages) > 20


@of_every_page()
def test_targets_of_make_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    text = "\n".join([*console_lines(page), *re.findall(r"`([^`\n]+)`", prose(page))])
    assert set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "docs" / "unit3.ipynb"], ids=lambda page: page.name
)
def test_imports_of_examples_exist(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        code = ["".join(cell["source"]).replace("\\\n", "") for cell in cells]
        blocks = [re.sub(r"^(\s*)[!%].*", r"\1pass", each, flags=re.MULTILINE) for each in code]
    else:
        blocks = [code for _, language, code in FENCE.findall(text) if language == "python"]
    for node in (node for code in blocks for node in ast.walk(ast.parse(code))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("dqn_zoo"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, each.name) for each in node.names), ast.unparse(node)


def test_the_example_of_the_readme_runs_on_a_fresh_install(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    examples = [code for _, language, code in FENCE.findall((ROOT / "README.md").read_text())
                if language == "python"]  # fmt: skip
    for code in examples:
        exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) == 2  # q values of two environments
    assert examples
    assert not list(tmp_path.iterdir())


def test_every_page_has_a_place_in_the_site():
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    docs = ROOT / "docs"
    assert listed == {str(page.relative_to(docs)) for page in docs.rglob("*.md")}
