"""Every page that people read, run: its Python prompts, its commands, its links.

A page's blocks run from top to bottom in one folder of their own, in which `examples` lies, and
its Python blocks share their names. Commands run on a terminal, as a reader's would.
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

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# Commands that make the environment these tests run in, or run them.
NOT_RUN = ("pip", "bash", "git", "cd", "python")
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page, tmp_path, monkeypatch):
    if page.name == "torch.md" and not HAS_TORCH:
        pytest.skip("a page about an extra that is not installed")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    namespace, report, count = {"__name__": "__main__"}, [], 0
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            assert ">>> " in block, f"{page.name}: a block without prompts cannot be checked"
            if "shardwise.torch import" in block and not HAS_TORCH:
                continue
            count += run_prompts(block, page.name, namespace, report)
        elif language == "console":
            count += run_commands(block, page.name, report)
    assert not report, "\n".join(report)
    assert count, f"{page.name} has nothing that can be run"


def anchors(page):
    """The names by which a page's headings can be linked to."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


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


def test_every_page_is_listed():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = set(LINK.findall(index))
    assert {page.name for page in PAGES[1:]} - {"index.md"} <= listed
