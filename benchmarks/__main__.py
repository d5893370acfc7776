"""The command line: chooses a suite, and the interpreter and processes to run it in."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import environment
from .options import ROUNDS, SUITES, Options


def thread_counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"expected positive thread counts, got {text!r}")
    return counts


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return int(text)


def parse(arguments: Sequence[str]) -> Options:
    listing = "\n".join(f"  {name:<10} {what}" for name, what in SUITES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time shardwise beside its peers, once all were seen to give the same answer.",
        epilog=f"suites:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "suite", nargs="?", choices=SUITES, help="what to time (default: all, and write the page)"
    )
    parser.add_argument("--quick", action="store_true", help="small tables, few rounds")
    parser.add_argument(
        "--threads",
        type=thread_counts,
        metavar="N,...",
        help="thread counts, each in a process of its own "
        "(default: 1,2, distributed 1; with --quick 2, sweep and distributed 1)",
    )
    usual = ", ".join(f"{suite} {rounds}" for suite, rounds in ROUNDS.items())
    parser.add_argument(
        "--rounds", type=positive, help=f"rounds per case (default: {usual}; with --quick 3 or 1)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="of all suites, run those alone that an interrupted run of the same sources has not",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FOLDER",
        help="where the page about all suites goes (docs/benchmarks; with --quick the cache)",
    )
    parser.add_argument(
        "--here",
        action="store_true",
        help="use this interpreter and the peers that it has, not the benchmarks' environment",
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.resume and given.suite:
        parser.error("expected --resume for all suites, got it for one")
    return Options(
        suite=given.suite,
        quick=given.quick,
        threads=given.threads,
        rounds=given.rounds,
        json=given.json and given.json.resolve(),
        here=given.here,
        resume=given.resume,
        page=given.page and given.page.resolve(),
        worker=given.worker,
    )


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if not options.here:
        python = str(environment.prepare())
        os.chdir(environment.ROOT)
        sys.stdout.flush()
        os.execv(python, [python, *options.command(here=True)])
    from . import runner  # needs NumPy, rich and shardwise: only the chosen interpreter has them

    if options.suite is None:
        return runner.run_all(options)
    options = options.of(options.suite)
    return runner.work(options) if options.worker else runner.run(options)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
