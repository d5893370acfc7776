"""Trainings that are interrupted, by Ctrl-C, kill or a failure, and go on with the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from shardwise import OptionError, StoreError, Table, Vectors, skipgram, store

HOW = {"dim": 20, "epochs": 4, "threads": 1}
NGRAMS = {"min_n": 2, "max_n": 3, "bucket": 300}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Seven blocks an epoch."""
    drawn = random.Random(5)
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    words = [f"w{k}" for k in range(300)]
    lines = (" ".join(drawn.choices(words[: drawn.randint(9, 300)], k=9)) for _ in range(11_000))
    path.write_text("\n".join([*lines, *5 * [" ".join(words)]]))
    return path


def rows_of(vectors):
    return vectors.table.lookup(np.arange(len(vectors.table)))


def stop_at_once(now):
    if now.stage == "train":
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("how", [{}, {"model": "cbow"}, NGRAMS])
def test_a_training_goes_on_with_the_same_bits(corpus, tmp_path, how):
    whole = rows_of(skipgram.train(corpus, **HOW, **how))
    state, out = tmp_path / "state", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        skipgram.train(corpus, out, **HOW, **how, checkpoint=state, progress=stop_at_once)
    assert os.listdir(tmp_path) == ["state"]
    with pytest.raises(StoreError, match="got one; go on with resume"):
        skipgram.train(corpus, out, **HOW, checkpoint=state)
    times = 0
    while True:
        try:
            made = skipgram.resume(
                corpus, out, checkpoint=state, threads=1, progress=stop_at_once, shards=2
            )
            break
        except KeyboardInterrupt:
            times += 1
            assert sorted(n.split("-")[0] for n in os.listdir(state)) == [
                "inputs",
                "outputs",
                "shardwise",
            ]
    assert times
    assert np.array_equal(rows_of(made), whole)
    assert os.listdir(tmp_path) == ["out"]


def test_without_a_place_for_it_nothing_is_left(corpus, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        skipgram.train(corpus, tmp_path / "out", **HOW, progress=stop_at_once)
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_told_may_stop_it(corpus, tmp_path):
    whole = rows_of(skipgram.train(corpus, **HOW))

    def fail(now):
        if now.stage == "train":
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        skipgram.train(corpus, **HOW, checkpoint=tmp_path / "state", progress=fail)
    made = skipgram.resume(corpus, checkpoint=tmp_path / "state", threads=1)
    assert np.array_equal(rows_of(made), whole)


def test_a_failure_at_the_end_loses_nothing(corpus, tmp_path, monkeypatch):
    whole = rows_of(skipgram.train(corpus, **HOW))

    def full(*_, **__):
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("shardwise.skipgram._job.write_blocks", full)
        with pytest.raises(OSError, match="the disk is full"):
            skipgram.train(corpus, tmp_path / "out", **HOW, checkpoint=tmp_path / "state")
    seen = []
    made = skipgram.resume(
        corpus, tmp_path / "out", checkpoint=tmp_path / "state", progress=seen.append
    )
    assert "train" not in {one.stage for one in seen}
    assert np.array_equal(rows_of(made), whole)


def test_another_corpus_is_refused(corpus, tmp_path):
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        skipgram.train(corpus, **HOW, checkpoint=state, progress=stop_at_once)
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text() + "\nw1 w2")
    with pytest.raises(
        OptionError, match="another one, of 100502 known words; name the same files"
    ):
        skipgram.resume(other, checkpoint=state)


def test_a_state_of_another_order_of_the_blocks_is_told(corpus, tmp_path):
    """It would train some blocks twice, and others never."""
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        skipgram.train(corpus, **HOW, checkpoint=state, progress=stop_at_once)
    file = state / "shardwise-training.json"
    text = json.loads(file.read_text())
    file.write_text(json.dumps({**text, "version": 1}))
    with pytest.raises(StoreError, match="expected version 2, got 1; go on with the shardwise"):
        skipgram.resume(corpus, checkpoint=state)


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", "version", "options", "blocks", "number", "dim"]
)
def test_a_damaged_state_is_told(corpus, tmp_path, damage):
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        skipgram.train(corpus, **HOW, checkpoint=state, progress=stop_at_once)
    file = state / "shardwise-training.json"
    text = json.loads(file.read_text())
    if damage in text:
        text[damage] = "?" if damage != "blocks" else -1
        damage = json.dumps(text)
    elif damage == "dim":
        text["options"]["dim"] = 21
        damage = json.dumps(text)
    file.write_text(damage)
    with pytest.raises(StoreError, match=r"shardwise-training\.json"):
        skipgram.resume(corpus, checkpoint=state)


COMMAND = [sys.executable, "-c", "from shardwise.cli import app; app()"]


def run(*arguments, **more):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=100, **more
    )


@pytest.fixture(scope="module")
def long(corpus):
    """A training that takes far longer than a test."""
    return ["train", corpus, "-o", "out", "--dim", "400", "--epochs", "3000", "--threads", "1"]


def started(command, tmp_path, ready):
    process = subprocess.Popen(
        [*COMMAND, *map(str, command)], cwd=tmp_path, stdout=-1, stderr=-1, text=True
    )
    until = time.monotonic() + 60
    while not ready() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    return process


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_goes_on(long, tmp_path, which):
    state = tmp_path / "out.training" / "shardwise-training.json"
    every = ["--checkpoint-every", "0.001"]
    process = started([*long, *every], tmp_path, state.exists)
    process.send_signal(which)
    printed, errors = process.communicate(timeout=60)
    assert not printed
    if which == signal.SIGINT:
        assert process.returncode == 130
        assert "saved in out.training; --resume goes on from there" in errors
    else:
        assert process.returncode == -which
        assert not errors
    assert os.listdir(tmp_path) == ["out.training"]
    text = json.loads(state.read_text())
    assert text["blocks"] > 0
    for name in ("inputs", "outputs"):
        store.verify_table(state.parent / f"{name}-{text['number']}")
    text["options"]["epochs"] = text["blocks"] // 7 + 1  # so that it ends soon
    state.write_text(json.dumps(text))
    done = run("train", long[1], "-o", "out", "--resume", "--threads", "1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "out: 300 rows of 400 float32 values in 1 shard, of 300 words\n"
    assert os.listdir(tmp_path) == ["out"]


def test_the_command(corpus, tmp_path):
    options = ["--dim", 8, "--epochs", 1, "--threads", 1, "--seed", 4, "--shards", 2]
    done = run("train", corpus, "-o", "out", *options, "--context", "ctx", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")  # silent in a pipe
    vectors = Vectors.open(tmp_path / "out")
    assert np.array_equal(
        rows_of(vectors), rows_of(skipgram.train(corpus, dim=8, epochs=1, threads=1, seed=4))
    )
    assert Table.open(tmp_path / "ctx").partition.num_shards == 2
    again = run("train", corpus, "-o", "out", *options, cwd=tmp_path)
    assert again.returncode == 1
    assert "got one of 300 rows; choose another name" in again.stderr
    warm = run(
        "train", corpus, "-o", "warm", *options, "--start", "out", "--start-context", "ctx",
        "--min-count", 1, "--work", tmp_path, cwd=tmp_path,
    )  # fmt: skip
    assert (warm.returncode, warm.stderr) == (0, "")
    refused = run("train", corpus, "-o", "new", "--resume", "--dim", 9, cwd=tmp_path)
    assert refused.returncode == 1
    assert "expected no --dim with --resume" in refused.stderr
    nothing = run("train", corpus, "-o", "new", "--resume", cwd=tmp_path)
    assert nothing.returncode == 1
    assert "expected an interrupted training at new.training, got none" in nothing.stderr
    assert sorted(os.listdir(tmp_path)) == ["ctx", "out", "warm"]
