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
    """Run every suite, each as by its own command, and write the page about them."""
    results = environment.CACHE / "results"
    results.mkdir(parents=True, exist_ok=True)
    failures, documents = 0, []
    for suite in SUITES:
        document = results / f"{suite}.json"
        failures += run(replace(options, suite=suite, json=document, page=None))
        documents.append(json.loads(document.read_text()))
    usual = environment.CACHE / "page" if options.quick else environment.ROOT / "docs/benchmarks"
    written = page.write(documents, options.page or usual)
    report.make_console().print(f"\nwritten: {written}")
    return 1 if failures else 0


def run(options: Options) -> int:
    """Run the suite in one process per thread count."""
    console = report.make_console()
    runs: list[dict[str, Any]] = []
    failures = 0
    about = machine.describe()
    console.print(f"{about['cpu']}, {about['usable_cores']} usable cores, {about['python']}")
    console.print(", ".join(f"{name} {version}" for name, version in machine.packages().items()))
    with tempfile.TemporaryDirectory() as folder:
        for threads in options.threads:
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
            "suite": options.suite,
            "quick": options.quick,
            "rounds": options.rounds,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "commit": environment.commit(),
            "sources": environment.tree_fingerprint(),
            "machine": about,
            "packages": machine.packages(),
            "runs": runs,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if failures else 0


def work(options: Options) -> int:
    """Run the suite in this process, with one thread count; write the results for `run`."""
    (threads,) = options.threads
    assert options.worker is not None
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
