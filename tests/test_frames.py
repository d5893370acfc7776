import sys

import numpy as np
import pytest

from shardwise import MissingLibraryError, Table, Vectors, Vocabulary

ROWS = np.array([[1.0, 0], [0, 1], [3, 4], [4, 3]])
TOKENS = ["east", "north", "far", "b\udcff"]


@pytest.fixture
def vectors():
    return Vectors(Table.from_array(ROWS), Vocabulary(TOKENS))


def searches(vectors):
    yield "most_similar", (["east", "north"],)
    yield "most_similar", ([["far"], ["north"]],)
    yield "most_similar_cosmul", ("east",)
    yield "most_similar_cosmul", ([["east"], ["north", "far"]],)
    yield "similar_by_vector", (ROWS[0],)
    yield "similar_by_vector", (ROWS[1:],)
    yield "analogy", ("east", "north", "far")
    yield "analogy", (["east", "far"], ["north", "east"], ["far", "north"])


def test_frames_say_what_lists_say(vectors):
    pytest.importorskip("pandas")
    for name, query in searches(vectors):
        found = getattr(vectors, name)(*query, topn=3)
        frame = getattr(vectors, name)(*query, topn=3, as_frame=True)
        batch = isinstance(found[0], list)
        wanted = [(q, *n) for q, near in enumerate(found if batch else [found]) for n in near]
        columns = ["query", "token", "score"][0 if batch else 1 :]
        assert list(frame.columns) == columns, name
        assert frame["score"].dtype == np.float64
        rows = list(frame.itertuples(index=False, name=None))
        assert rows == (wanted if batch else [row[1:] for row in wanted])
        if batch:
            assert frame["query"].dtype == np.int64


def test_frames_without_rows(vectors):
    pandas = pytest.importorskip("pandas")
    text = pandas.Series(["a"]).dtype
    for frame in (
        vectors.most_similar("east", topn=0, as_frame=True),
        vectors.similar_by_vector(np.empty((0, 2)), as_frame=True),
        vectors.most_similar([["east"], ["far"]], topn=0, as_frame=True),
    ):
        assert len(frame) == 0
        assert (frame["token"].dtype, frame["score"].dtype) == (text, np.float64)


def test_bytes_that_are_not_utf8_stay(vectors):
    pytest.importorskip("pandas")
    frame = vectors.most_similar("far", topn=1, as_frame=True)
    assert frame["token"].tolist() == ["b\udcff"]


def test_drift_as_a_frame(vectors):
    pytest.importorskip("pandas")
    other = Vectors(Table.from_array(ROWS[::-1]), Vocabulary(TOKENS))
    for neighbours in (0, 2):
        found = vectors.drift(other, neighbours=neighbours)
        frame = vectors.drift(other, neighbours=neighbours, as_frame=True)
        fields = ["token", "cosine", "distance", "norm", "other_norm", "overlap"]
        assert list(frame.columns) == fields[: 6 if neighbours else 5]
        rows = list(frame.itertuples(index=False, name=None))
        assert rows == [tuple(d)[: len(frame.columns)] for d in found]


def test_pandas_is_asked_for_by_name(vectors, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for name, query in searches(vectors):
        with pytest.raises(MissingLibraryError, match=r'pip install "shardwise\[pandas\]"'):
            getattr(vectors, name)(*query, as_frame=True)
        assert getattr(vectors, name)(*query)
