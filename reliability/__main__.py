"""The command line: runs the parts one after the other, and writes the table of what they did."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from .counts import Run, table

PARTS = {
    "lives": ("reliability.machine", 6, "random lives of tables beside a model in NumPy"),
    "threads": ("reliability.threads", 2, "16 threads: one writes, the others read"),
    "processes": ("reliability.processes", 1, "fork and spawn in the middle of work"),
    "limits": (
        "reliability.limits",
        2,
        "no memory, full disks, read-only folders, files cut short",
    ),
    "arguments": ("reliability.arguments", 4, "every public function with arguments that are none"),
    "files": ("reliability.files", 4, "mutated files to every reader"),
    "leaks": ("reliability.leaks", 1, "memory, descriptors and objects that stay"),
}
PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BETWEEN = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    listing = "\n".join(f"  {name:<10} {what}" for name, (_, _, what) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m reliability",
        description="Give shardwise a hard life, and compare every answer.",
        epilog=f"parts:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="which ones (default: all)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=10, help="for all parts (default: 10)")
    length.add_argument("--short", action="store_true", help="each thing once, as the tests do")
    parser.add_argument("--seed", type=int, help="of all choices (default: by the clock)")
    parser.add_argument("--write", action="store_true", help="put the table into the docs' page")
    given = parser.parse_args(arguments)
    if wrong := set(given.parts) - set(PARTS):
        parser.error(f"expected parts from {', '.join(PARTS)}, got {', '.join(sorted(wrong))}")
    if given.write and (given.parts or given.short):
        parser.error("expected --write for a long run of all parts alone")
    return given


def commit() -> str:
    """What is tried: the commit of this copy, and whether it was changed since."""
    git = ["git", "-C", str(PAGE.parent)]
    asked = [["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]]
    try:
        head, changed = (
            subprocess.run([*git, *one], capture_output=True, text=True, check=True).stdout.strip()
            for one in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return "a copy without git"
    return f"{head}, changed" if changed else head


def main(arguments: Sequence[str]) -> int:
    given = parse(arguments)
    chosen = given.parts or list(PARTS)
    seed = given.seed if given.seed is not None else time.time_ns() % 1_000_000
    tried = commit()  # as it is now, not at the end
    whole = sum(PARTS[name][1] for name in chosen)
    runs: dict[str, Run] = {}
    failed = []
    for name in chosen:
        module, share, what = PARTS[name]
        seconds = 0.0 if given.short else given.minutes * 60 * share / whole
        print(f"== {name}: {what} (seed {seed}, {seconds:.0f} s)", flush=True)
        with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
            run = runs[name] = Run(seconds, seed, Path(folder))
            try:
                importlib.import_module(module).run(run)
            except Exception:
                traceback.print_exc()
                print(f"again: python -m reliability {name} --seed {seed}", flush=True)
                failed.append(name)
        took = time.monotonic() - run.begin
        for note in run.notes:
            print(f"   {note}")
        print(f"   {sum(run.done.values()):,} counted in {took:.0f} s", flush=True)
    print("\n" + table(runs))
    print(f"\n{'FAULTS in ' + ', '.join(failed) if failed else 'no faults'}, seed {seed}")
    if given.write and not failed:
        total = sum(sum(run.done.values()) for run in runs.values())
        words = (
            f"By `python -m reliability --minutes {given.minutes:g} --seed {seed}`, on "
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, Python "
            f"{platform.python_version()}, at commit {tried}: {total:,} "
            f"operations and inputs in all, and no fault.\n\n{table(runs)}\n"
        )
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(BETWEEN.sub(lambda _: words, page), encoding="utf-8")
    return min(1, len(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
