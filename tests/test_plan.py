"""`Partition.balanced`, and what `shardwise plan` says before there are ranks."""

import json
from itertools import combinations_with_replacement, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from shardwise import OptionError, Partition, PartitionError, Table
from shardwise._cuts import cuts_of, pieces_of
from shardwise._plan import Load, balanced, make_plan
from shardwise.cli import app


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


# --- Partition.balanced


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 4), st.integers(0, 6), st.booleans())
def test_balanced_has_the_least_largest_load(counts, shards, more, bounded):
    rows = len(counts)
    most = -(-rows // shards) + more if bounded else None
    if most is not None:
        most = max(1, most)
    found = Partition.balanced(counts, shards, max_rows=most)
    limit = max(1, 2 * -(-rows // shards)) if most is None else most
    loads = np.array(counts if any(counts) else [1] * rows)

    def largest(boundaries):
        return max(loads[a:b].sum() for a, b in pairwise(boundaries))

    assert found.num_rows == rows
    assert found.num_shards == shards
    assert max(found.shard_sizes) <= limit
    best = min(
        largest((0, *inner, rows))
        for inner in combinations_with_replacement(range(rows + 1), shards - 1)
        if max(b - a for a, b in pairwise((0, *inner, rows))) <= limit
    )
    assert largest(found.boundaries) <= best * (1 + 1e-6)


def test_balanced_spreads_what_is_asked_for_often():
    counts = 1 / np.arange(1, 100_001)
    found = Partition.balanced(counts, 8, max_rows=100_000)
    shards, _ = found.locate(np.arange(100))
    assert len(set(shards.tolist())) >= 4
    loads = [counts[a:b].sum() for a, b in pairwise(found.boundaries)]
    assert max(loads) < 1.3 * np.mean(loads)
    assert sorted(Partition.balanced(np.zeros(10), 4).shard_sizes) == [2, 2, 3, 3]


def test_balanced_counts_whose_sum_is_no_number():
    assert Partition.balanced([1e308] * 6, 3).shard_sizes == (2, 2, 2)
    assert Partition.balanced([1e308, 1e308, 0, 0], 2, max_rows=3).shard_sizes == (1, 3)


@pytest.mark.parametrize("counts", [[-1, 2], [np.nan], [np.inf], [[1, 2]], ["a"], [1, [2]]])
def test_balanced_refuses_what_are_no_counts(counts):
    with pytest.raises(PartitionError):
        Partition.balanced(counts, 2)


def test_balanced_refuses_what_does_not_fit():
    with pytest.raises(PartitionError, match="max_rows of at least 4"):
        Partition.balanced(np.ones(10), 3, max_rows=3)
    with pytest.raises(PartitionError, match="num_shards"):
        Partition.balanced(np.ones(10), 0)


# --- which rows ranks hold


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_ranks_hold_each_row_once(rows, shards, ranks, by_mod):
    partition = (Partition.mod if by_mod else Partition.div)(rows, shards)
    cuts = cuts_of(partition, ranks)
    assert cuts[0] == 0
    assert cuts[-1] == rows
    assert len(cuts) == ranks + 1
    seen = np.concatenate(
        [
            partition.ids_of(shard, np.arange(begin, end))
            for a, b in pairwise(cuts)
            for shard, begin, end in pieces_of(partition, a, b)
        ]
    )
    assert sorted(seen.tolist()) == list(range(rows))


# --- the plan


def test_a_plan_counts_what_crosses_the_wire():
    # Two ranks, one step: rank 0 asks for rows 0, 1, 3 and rank 1 for rows 1, 2.
    sample = np.array([0, 1, 1, 3, 1, 1, 1, 2])
    load = Load(row_bytes=12, sent_row_bytes=10, batch=4, trains=False)
    plan = make_plan(Partition.mod(4, 2), sample, 2, load)
    assert plan.steps == 1
    assert not plan.resampled
    first, second = plan.ranks
    assert (first.rows, first.bytes) == (2, 24)
    assert (first.asked, second.asked) == (2, 3)  # 0 and 2; 1, 3 and 1
    # Rank 0 sends the ids 1 and 3, and the row 2; rank 1 the id 2, and the rows 1 and 3.
    assert (first.sent, second.sent) == (2 * 4 + 10, 4 + 2 * 10)
    assert (first.received, second.received) == (second.sent, first.sent)
    trained = make_plan(Partition.mod(4, 2), sample, 2, Load(12, 10, 4))
    assert trained.ranks[0].sent == first.sent + 2 * 10  # gradients of 1 and 3
    bags = make_plan(Partition.mod(4, 2), sample, 2, Load(12, 10, 4, bag=2, trains=False))
    # Rank 0: of the bag (0, 1) a sum of each, of (1, 3) one of rank 1's; its ids are 1, 1 and 3.
    assert bags.ranks[1].asked == 2 + 2
    assert bags.ranks[1].sent == 4 + 2 * 10


def test_a_plan_counts_what_copies_save_and_cost():
    # As above: rank 0 asks for rows 0, 1, 3 and rank 1 for rows 1, 2; of row 1 both have a copy.
    sample, copied = np.array([0, 1, 1, 3, 1, 1, 1, 2]), np.array([1])
    load = Load(row_bytes=12, sent_row_bytes=10, batch=4, trains=False, copy_bytes=11)
    plan = make_plan(Partition.mod(4, 2), sample, 2, load, copied)
    first, second = plan.ranks
    assert (first.bytes, second.bytes) == (2 * 12 + 11, 2 * 12 + 11)
    assert (first.asked, second.asked) == (2, 1)
    assert (first.sent, second.sent) == (4 + 10, 4 + 10)
    trained = make_plan(Partition.mod(4, 2), sample, 2, Load(12, 10, 4, copy_bytes=11), copied)
    # Ids again and gradients, 1 and 3 of rank 0 and 2 of rank 1, and then the copy of row 1.
    assert trained.ranks[0].sent == first.sent + 2 * (4 + 10)
    assert trained.ranks[1].sent == second.sent + 1 * (4 + 10) + 4 + 11
    bags = make_plan(Partition.mod(4, 2), sample, 2, Load(12, 10, 4, 2, False, 11), copied)
    assert (bags.ranks[0].asked, bags.ranks[1].asked) == (2 + 1, 1 + 2)


@pytest.mark.parametrize("replicated", [None, list(range(0, 211, 3))])
@pytest.mark.parametrize("trains", [False, True])
def test_a_plan_agrees_with_what_ranks_send(tmp_path, replicated, trains):
    pytest.importorskip("torch.distributed")

    import distributed_ranks as ranks
    import distributed_training as training

    matrix = np.ones((ranks.ROWS, ranks.DIM), np.float32)
    Table.from_array(matrix, 2).save(tmp_path / "t")
    found = ranks.run(training.sent_by_lookup, 2, tmp_path / "t", replicated, trains)
    sample = np.concatenate([np.random.default_rng(k).integers(0, 211, 64) for k in range(2)])
    copied = None if replicated is None else np.array(replicated)
    load = Load(20, 20, 64, trains=trains)
    plan = make_plan(Partition.mod(211, 2), sample, 2, load, copied)
    # Bytes that are sent to each rank in each call, and are no ids and no rows.
    header = 40 + (40 + 8 * (replicated is not None)) * trains
    assert [sent - header for sent in found] == [rank.sent for rank in plan.ranks]


def test_a_small_sample_is_drawn_from_again():
    plan = make_plan(Partition.div(10, 2), np.array([3]), 2, Load(4, 4, 100))
    assert plan.resampled
    assert plan.steps == 1
    assert [rank.asked for rank in plan.ranks] == [2, 0]


def test_balanced_by_how_often_a_step_has_an_id():
    ids = np.repeat([0, 1, 2, 3], [900, 60, 30, 10])
    few = balanced(4, ids, 2, Load(4, 4, batch=1), None)
    many = balanced(4, ids, 2, Load(4, 4, batch=10_000), None)
    assert few.boundaries == (0, 1, 4)  # one id is asked for more than all others
    assert many.boundaries == (0, 2, 4)  # each is in every batch


@pytest.mark.parametrize("load", [Load(4, 4, 0), Load(4, 4, 4, bag=5)])
def test_a_plan_of_nothing_is_refused(load):
    with pytest.raises(OptionError):
        make_plan(Partition.div(10, 2), np.array([3]), 2, load)
    with pytest.raises(OptionError, match="at least one id"):
        make_plan(Partition.div(10, 2), np.array([], np.int64), 2, Load(4, 4, 4))


# --- the command


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("ids.npy", (1000.0 ** rng.random(50_000)).astype(np.int32) - 1)
    Table.from_array(np.zeros((1000, 8), np.float32), 4).save("t")
    return tmp_path


def test_the_command_prints_a_plan_and_draws_it(home):
    code, out, _ = run("plan", "t", "--ids", "ids.npy", "--ranks", 4, "--batch", 1000)
    assert code == 0
    assert "4 ranks, as it is: means of 4 steps" in out
    assert "8 kB" in out
    assert "balanced" in out
    for name in ("p.svg", "p.png", "p.pdf"):
        assert run("plan", "t", "--ids", "ids.npy", "--ranks", 2, "-o", name)[0] == 0
        assert (home / name).stat().st_size > 1000
    first = (home / "p.svg").read_bytes()
    assert run("plan", "t", "--ids", "ids.npy", "--ranks", 2, "-o", "p.svg")[0] == 1
    run("plan", "t", "--ids", "ids.npy", "--ranks", 2, "-o", "p.svg", "--overwrite")
    assert (home / "p.svg").read_bytes() == first


def test_the_command_says_what_does_not_fit(home):
    code, out, _ = run(
        *("plan", "--rows", 1000, "--dim", 8, "--ids", "ids.npy", "--ranks", 4, "--memory", "10K"),
        *("--optimizer", "Adagrad", "--partition", "div", "--network", "1G", "--batch", 100),
    )
    assert code == 0
    assert "does not fit: a rank needs 16 kB of 10 kB; 7 ranks at the least" in out
    assert "ms" in out


def test_the_command_gives_json(home):
    _, out, _ = run(
        *("plan", "t", "--ids", "ids.npy", "--ranks", 8, "--json", "--wire", "float16"),
        *("--partition", "balanced", "--network", "8G", "--batch", 500, "--bag", 20),
    )
    found = json.loads(out)
    assert len(found["ranks"]) == 8
    assert sum(rank["rows"] for rank in found["ranks"]) == 1000
    assert found["partition"]["strategy"] == "ranges"
    assert found["wire_seconds"] == pytest.approx(found["busiest_bytes"] / 1e9)


def test_the_command_says_what_copies_save(home):
    job = ("plan", "t", "--ids", "ids.npy", "--ranks", 4, "--batch", 500)
    code, out, _ = run(*job, "--replicate", 100)
    assert code == 0
    assert "as it is, copies of 100 rows" in out
    assert "as it is, no copies" in out
    fewer, more = (json.loads(run(*job, "--json", *how)[1]) for how in (["--replicate", 100], []))
    assert fewer["replicated"] == 100
    assert more["replicated"] == 0
    assert fewer["busiest_bytes"] < 0.8 * more["busiest_bytes"]
    assert fewer["largest_bytes"] == more["largest_bytes"] + 100 * 32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["t"], "--ids"),
        (["--ids", "ids.npy"], "--rows and --dim"),
        (["t", "--rows", "3", "--ids", "ids.npy"], "got both"),
        (["t", "--ids", "text"], "an id a line"),
        (["t", "--ids", "floats.npy"], "integer"),
        (["t", "--ids", "outside.npy"], "from 0 to 999"),
        (["t", "--ids", "ids.npy", "--memory", "lots"], "16G"),
        (["t", "--ids", "ids.npy", "--optimizer", "Lion"], "--optimizer"),
        (["t", "--ids", "ids.npy", "--partition", "hash"], "strategy"),
        (["t", "--ids", "ids.npy", "--wire", "int3"], "dtype"),
        (["t", "--ids", "ids.npy", "--ranks", "0"], "ranks"),
        (["t", "--ids", "ids.npy", "--replicate", "-1"], "--replicate"),
        (["t", "--ids", "ids.npy", "-o", "p.gif"], ".svg"),
        (["missing", "--ids", "ids.npy"], "missing"),
        (["t", "--ids", "missing.npy"], "missing.npy"),
    ],
)
def test_the_command_says_what_is_wrong(home, arguments, words):
    (home / "text").write_text("1\ntwo\n")
    np.save("floats.npy", np.ones(3))
    np.save("outside.npy", np.full(9, 1000))
    code, _, errors = run("plan", *arguments)
    assert code == 1
    assert words in errors
