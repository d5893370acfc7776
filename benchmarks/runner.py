"""Runs a suite: one process per thread count, results gathered from all of them."""

import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import environment, machine, page, peers, report
from .harness import AnswersDiffer, Case, measure
from .lineup import Setting
from .options import SUITES, Options


def run_all(options: Options) -> int:
    """Run every suite, each as by its own command, and write the page about them.

    What each found is kept at once, so that an interrupted run can go on.
    """
    results = environment.CACHE / ("results-quick" if options.quick else "results")
    results.mkdir(parents=True, exist_ok=True)
    console = report.make_console()
    failures, documents = 0, []
    for suite in SUITES:
        file = results / f"{suite}.json"
        one = replace(options.of(suite), json=file, page=None)
        document = measured(file, one) if options.resume else None
        if document is None:
            console.rule(f"{suite}: {SUITES[suite]}")
            failures += run(one)
            document = json.loads(file.read_text())
        console.print(f"{suite}: {document['seconds']:.0f} s")
        documents.append(document)
    console.print(f"all suites: {sum(one['seconds'] for one in documents):.0f} s")
    usual = environment.CACHE / "page" if options.quick else environment.ROOT / "docs/benchmarks"
    written = page.write(documents, options.page or usual)
    console.print(f"\nwritten: {written}")
    return 1 if failures else 0


def measured(file: Path, options: Options) -> dict[str, Any] | None:
    """Give what a suite's file holds, if the same run of the same sources ended there."""
    try:
        document: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    wanted = about_run(options)
    complete = [one["threads"] for one in document.get("runs", [])] == list(options.threads or ())
    same = all(document.get(key) == value for key, value in wanted.items())
    return document if same and complete else None


def about_run(options: Options) -> dict[str, Any]:
    """Give what two runs have to share for one to stand for the other."""
    return {
        "suite": options.suite,
        "quick": options.quick,
        "rounds": options.rounds,
        "sources": environment.tree_fingerprint(),
        "measured_by": environment.fingerprint([environment.suite_file(str(options.suite))]),
        "machine": machine.describe(),
        "packages": machine.packages(),
    }


def run(options: Options) -> int:
    """Run the suite in one process per thread count."""
    console = report.make_console()
    runs: list[dict[str, Any]] = []
    failures = 0
    begin, load = time.monotonic(), os.getloadavg()
    about = machine.describe()
    console.print(f"{about['cpu']}, {about['usable_cores']} usable cores, {about['python']}")
    console.print(", ".join(f"{name} {version}" for name, version in machine.packages().items()))
    with tempfile.TemporaryDirectory() as folder:
        for threads in options.threads or ():
            results = Path(folder) / f"{threads}.json"
            worker = replace(options, threads=(threads,), worker=results, json=None)
            command = [sys.executable, *worker.command(here=True)]
            variables = os.environ | peers.quiet_environment(threads)
            failed = subprocess.run(command, env=variables, check=False).returncode
            failures += bool(failed)
            if failed:
                console.print(f"[red]the run with {threads} threads failed (status {failed})[/]")
            else:
                runs.append(json.loads(results.read_text()))
    report.summary(console, runs, quick=options.quick)
    if options.json:
        document = {
            **about_run(options),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": time.monotonic() - begin,
            "load_average": load,
            "commit": environment.commit(),
            "runs": runs,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if failures else 0


def work(options: Options) -> int:
    """Run the suite in this process, with one thread count; write the results for `run`."""
    assert options.worker is not None
    assert options.threads is not None
    assert options.rounds is not None
    (threads,) = options.threads
    try:
        import shardwise
    except ModuleNotFoundError as error:
        if error.name != "shardwise":
            raise
        print("shardwise is not installed in this interpreter; run without --here", file=sys.stderr)
        return 1
    shardwise.set_num_threads(threads)
    setting = Setting(threads, options.quick, peers.load(threads))
    suite = importlib.import_module(f".suites.{options.suite}", __package__)
    cases: Callable[[Setting], Iterator[Case]] = suite.cases
    console = report.make_console()
    console.rule(f"threads: {threads}")
    if threads > machine.usable_cores():
        console.print("[red]more threads than cores: the times below say little[/]")
    results: list[dict[str, Any]] = []
    try:
        for case in cases(setting):
            result = measure(case, options.rounds)
            report.show(console, result)
            results.append({**report.as_json(result), "memory": machine.memory_in_use()})
            del case, result  # they hold tables: let go before the suite builds the next ones
            gc.collect()  # a compiled statement and its names refer to each other
            shardwise.empty_cache()  # every case begins with fresh memory
    except AnswersDiffer as error:
        print(f"wrong answer, nothing is timed: {error}", file=sys.stderr)
        return 1
    options.worker.write_text(json.dumps({"threads": threads, "cases": results}))
    return 0
