"""The benchmarks' own virtual environment: shardwise from this checkout, and the peers.

Standard library only: this runs before the environment exists.
"""

import hashlib
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "benchmarks"
PEERS = ROOT / "benchmarks" / "peers.txt"
PEERS_NO_DEPS = ROOT / "benchmarks" / "peers-no-deps.txt"


def prepare() -> Path:
    """Make the environment, or bring it up to date; give the path of its interpreter."""
    directory = CACHE / f"environment-{sys.implementation.cache_tag}"
    python = directory / "bin" / "python"
    if not python.exists():
        say(f"making an environment in {directory.relative_to(ROOT)}")
        venv.create(directory, clear=True, with_pip=True, upgrade_deps=False)
    peers = Stamp(directory / "peers.stamp", fingerprint([PEERS, PEERS_NO_DEPS]))
    if not peers.current():
        say("installing the peers (some minutes, once)")
        pip(python, "install", "-r", str(PEERS))
        pip(python, "install", "--no-deps", "-r", str(PEERS_NO_DEPS))
        peers.set()
    shardwise = Stamp(directory / "shardwise.stamp", tree_fingerprint())
    if not shardwise.current():
        say("building shardwise from this checkout")
        build = CACHE / f"build-{sys.implementation.cache_tag}"
        pip(python, "install", str(ROOT), f"-Cbuild-dir={build}")
        shardwise.set()
    return python


class Stamp:
    """A file that says what an environment was last made from; absent until a step succeeded."""

    def __init__(self, path: Path, value: str) -> None:
        self.path = path
        self.value = value

    def current(self) -> bool:
        return self.path.exists() and self.path.read_text() == self.value

    def set(self) -> None:
        self.path.write_text(self.value)


def tree_fingerprint() -> str:
    """Name the state of the library's sources, committed or not."""
    files = [ROOT / "pyproject.toml", ROOT / "CMakeLists.txt"]
    for folder in ("src", "native"):
        files += (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return fingerprint(path for path in files if path.suffix not in {".pyc", ".so"})


def fingerprint(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def suite_file(suite: str) -> Path:
    return ROOT / "benchmarks" / "suites" / f"{suite}.py"


def commit() -> str | None:
    """Give the checkout's commit, with a plus sign if files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"could not prepare the benchmarks' environment: pip {' '.join(arguments)}")


def say(what: str) -> None:
    print(f"benchmarks: {what}", file=sys.stderr, flush=True)
