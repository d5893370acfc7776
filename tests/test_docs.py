"""Every page that people read, run: its Python prompts, its commands, its links.

A page's blocks run from top to bottom in one folder of their own, in which `examples` lies, and
its Python blocks share their names. Commands run on a terminal, as a reader's would. A block that
is not run says so, and why, in its title: `title="not run: ..."`, or `title="... (needs NAME)"`
where it runs if the library NAME is installed. Blocks of `text` are layouts, and no code.
"""

import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import shardwise
from shardwise.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"\(needs (\w+)\)")
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# Where a wheel is tested there are pages, and not all that they are about.
in_the_repository = pytest.mark.skipif(
    not (ROOT / "mkdocs.yml").exists(), reason="is about the repository, which is not here"
)
# Commands that make the environment these tests run in, or run them.
NOT_RUN = ("pip", "bash", "git", "cd", "python")
RUN = {"python", "console", "bash"}
HAS_TORCH = importlib.util.find_spec("torch") is not None
RUN_SHARDWISE = [sys.executable, "-c", "from shardwise.cli import app; app()"]


def on_terminal(command):
    """Return what a command prints where its standard output is a terminal of 80 columns."""
    terminal, end_of_command = os.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "FORCE_COLOR")}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=end_of_command,
        stderr=subprocess.PIPE,
        env=env | {"TERM": "dumb", "PYTHONUTF8": "1"},
    )
    os.close(end_of_command)
    printed = b""
    try:
        while part := os.read(terminal, 65536):
            printed += part
    except OSError:  # how Linux tells that the other end was closed
        pass
    os.close(terminal)
    _, errors = process.communicate(timeout=60)
    return (printed + errors).decode().replace("\r\n", "\n")


def run_prompts(block, name, namespace, report):
    """Run a block of Python prompts; return how many there were."""
    test = doctest.DocTestParser().get_doctest(block, {}, name, name, 0)
    test.globs = namespace
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
    return len(test.examples)


def run_commands(block, name, report):
    """Run those commands of a console block that are shardwise's; return how many there were."""
    count = 0
    for line, expected in COMMAND.findall(block):
        program, *arguments = shlex.split(line, comments=True)
        assert program == "shardwise" or program in NOT_RUN, f"{name}: who runs {line!r}?"
        if program != "shardwise":
            continue
        count += 1
        got = on_terminal([*RUN_SHARDWISE, *arguments])
        if not doctest.OutputChecker().check_output(expected, got, FLAGS):
            report.append(f"{name}: $ {line}\nExpected:\n{expected}\nGot:\n{got}")
    return count


def run_shell(block, name, report):
    """Run the commands of shardwise's in a shell's line; return how many there were."""
    lines = [part.strip() for line in block.splitlines() for part in line.split("&&")]
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "shardwise" or program in NOT_RUN, f"{name}: who runs {line!r}?"
        if program == "shardwise":
            done = subprocess.run([*RUN_SHARDWISE, *arguments], capture_output=True, text=True)
            if done.returncode:
                report.append(f"{name}: {line}\n{done.stderr}")
    return len(lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page, tmp_path, monkeypatch):
    if page.name in ("torch.md", "distributed.md") and not HAS_TORCH:
        pytest.skip("a page about an extra that is not installed")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    namespace, report, count = {"__name__": "__main__"}, [], 0
    for language, title, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        needs = NEEDS.search(title)
        if title.startswith("not run: ") or (needs and not importlib.util.find_spec(needs[1])):
            continue
        if language == "python":
            assert ">>> " in block, f"{page.name}: a block without prompts cannot be checked"
            if "shardwise.torch import" in block and not HAS_TORCH:
                continue
            count += run_prompts(block, page.name, namespace, report)
        elif language == "console":
            count += run_commands(block, page.name, report)
        elif language == "bash":
            count += run_shell(block, page.name, report)
    assert not report, "\n".join(report)
    assert count, f"{page.name} has nothing that can be run"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_is_left_out(page):
    """Each block is one that runs, one that says why not, or text; none is code by its indent."""
    text = page.read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    assert len(re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE)) == 2 * len(blocks)
    for language, title, block in blocks:
        reason = title.removeprefix("not run: ") if title.startswith("not run: ") else None
        assert language in RUN or language == "text" or reason, f"{page.name}: {block}"
        assert reason is None or len(reason) > 10
        assert language != "text" or not re.search(r"^(?:>>>|\$) ", block, re.MULTILINE)
    indented = re.search(r"\n\n {4,}\S.*", BLOCK.sub("", text))
    assert not indented, f"{page.name}: put this into a block: {indented[0].strip()}"


def anchors(page):
    """The names by which a page's headings can be linked to."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@in_the_repository
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        if link.startswith(("https://", "mailto:")):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}: no heading"


def test_every_public_name_is_in_the_reference():
    pages = (page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    written = re.findall(r"^::: (\S+)$", "\n".join(pages), re.MULTILINE)
    installed = Path(shardwise.__file__).parent
    packages = {path.parent.name for path in installed.glob("[a-z]*/__init__.py")}
    packages -= {"cli", "pictures", "words"}  # nobody imports from these
    names = {f"shardwise.{name}" for name in shardwise.__all__ if name not in packages}
    for package in packages:  # from the source: some need a library that is not installed
        text = (installed / package / "__init__.py").read_text(encoding="utf-8")
        found = re.findall(r"^from .* import \w+ as ([A-Za-z]\w*)$", text, re.MULTILINE)
        assert found, package
        names |= {f"shardwise.{package}.{name}" for name in found}
    assert sorted(written) == sorted(names)


def test_every_command_is_on_its_page():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    commands = typer.main.get_command(app).commands
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(commands)


def test_every_guarantee_has_its_test():
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert len(rows) > 30
    for promise, tests in rows:
        if promise in ("promise", "---"):
            continue
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)
        assert named, f"nothing holds: {promise}"
        for file, test in named:
            text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert f"def {test}(" in text, f"{file} has no {test}"


@in_the_repository
def test_the_picture_is_of_the_floors_that_are_checked():
    path = ROOT / "docs" / "floors.py"
    spec = importlib.util.spec_from_file_location("floors", path)
    floors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(floors)
    drawn = floors.PICTURE.read_text(encoding="utf-8")
    assert drawn == floors.picture(), "run python docs/floors.py"


@in_the_repository
def test_every_page_is_listed():
    docs = ROOT / "docs"
    index = (docs / "index.md").read_text(encoding="utf-8")
    guides = {page.name for page in docs.glob("*.md")} - {"index.md"}
    assert guides <= set(LINK.findall(index)), "name it in docs/index.md"
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"^ +- .*: (\S+\.md)$", site, re.MULTILINE))
    pages = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    assert pages <= listed, "give it its place in the nav of mkdocs.yml"
    hook = (docs / "hooks.py").read_text(encoding="utf-8")
    outside = dict(re.findall(r'^    "(\S+\.md)": "(\S+\.md)",$', hook, re.MULTILINE))
    assert all((ROOT / place).exists() for place in outside)
    assert listed == pages | set(outside.values()), "take what is gone out of mkdocs.yml"
