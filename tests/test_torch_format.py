import io
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from shardwise import FormatError, MissingLibraryError, OptionError, formats
from shardwise.formats._source import Source

torch = pytest.importorskip("torch")
from shardwise.formats import torch as torch_format  # noqa: E402

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def put(tmp_path):
    def write(content, name="file"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def saved(value, legacy=False, protocol=2):
    file = io.BytesIO()
    torch.save(value, file, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def source_of(rows):
    return Source(
        path="memory",
        format="npy",
        shape=rows.shape,
        dtype=rows.dtype,
        _rows=lambda begin, end: rows[begin:end],
    )


def written(rows):
    file = io.BytesIO()
    source = source_of(rows)
    torch_format.write_state_dict(file, source, source.blocks(3))
    return file.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "bool"]
)
def test_tensors(put, legacy, dtype):
    if legacy and "8_" in dtype:
        pytest.skip("torch does not load these itself")
    tensor = torch.tensor(ROWS).to(getattr(torch, dtype))
    expected = ROWS.astype(getattr(ml_dtypes, dtype, dtype))
    source = formats.open(put(saved({"weight": tensor}, legacy)))
    assert (source.format, source.shape, source.dtype) == ("torch", (4, 3), expected.dtype)
    assert np.array_equal(source.read(), expected)
    assert not source.read(1, 2).flags.writeable
    assert formats.open(put(saved(tensor, legacy)), limit=2).shape == (2, 3)


@pytest.mark.parametrize("legacy", [False, True])
def test_nested(put, legacy):
    state = {"model": {"wte.weight": torch.tensor(ROWS), "h": torch.ones(2, 2)}, "step": 3}
    state["self"] = [torch.ones(1), None]
    path = put(saved(state, legacy))
    assert formats.open(path).metadata == {"tensor": "model.wte.weight"}
    assert formats.open(path, tensor="model.h", dim=2).read().tolist() == [[1, 1], [1, 1]]
    assert formats.open(path, tensor="self.0").shape == (1,)
    with pytest.raises(OptionError, match=r"'model.h' \(float32, \[2, 2\]\)"):
        formats.open(path, tensor="x")
    with pytest.raises(OptionError, match="unknown"):
        formats.open(path, unknown="x")
    with pytest.raises(FormatError, match="dim=5"):
        formats.open(path, dim=5)
    module = torch.nn.Sequential(torch.nn.Embedding(4, 3), torch.nn.Linear(3, 2))
    source = formats.open(put(saved(module.state_dict(), legacy)), tensor="0.weight")
    assert np.array_equal(source.read(), module[0].weight.detach().numpy())


def test_views(put):
    tensor = torch.tensor(ROWS)
    assert np.array_equal(formats.open(put(saved(tensor.T))).read(), ROWS.T)
    assert formats.open(put(saved(tensor.T))).read(1, 2).flags.c_contiguous
    assert np.array_equal(formats.open(put(saved(torch.nn.Parameter(tensor[1:])))).read(), ROWS[1:])
    with pytest.raises(FormatError, match="views of the same values"):
        formats.open(put(saved(tensor[:1, :1].expand(10**12, 300))))
    for other in (tensor.to_sparse(), tensor.to("meta"), {"a": 1}, torch.tensor(1.0)):
        with pytest.raises(FormatError, match="expected a tensor of shape"):
            formats.open(put(saved(other)))


class Bad:
    def __reduce__(self):
        return (print, ("never",))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused(put, legacy, capsys):
    for content in (Bad(), {"weight": torch.tensor(ROWS), "x": Bad()}):
        with pytest.raises(FormatError, match=r"print, which could run .*model\.state_dict"):
            formats.open(put(saved(content, legacy)))
    assert capsys.readouterr().out == ""


def test_old_file_of_a_new_pickle(put):
    for protocol in (2, 3, 4, 5):
        path = put(saved({"weight": torch.tensor(ROWS)}, True, protocol))
        if protocol < 4:
            assert formats.open(path).shape == (4, 3)
            continue
        with pytest.raises(FormatError, match=r"torch\.load takes with weights_only=True"):
            formats.open(path)


def test_packed_again(put):
    content = saved({"weight": torch.tensor(ROWS)})
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(FormatError, match=r"stored, as torch\.save does"):
        formats.open(put(file.getvalue()))


def test_a_name_that_torch_goes_by(put):
    path = put(saved({"weight": torch.tensor(ROWS)}), "model.safetensors")
    assert np.array_equal(formats.open(path).read(), ROWS)


@pytest.mark.parametrize("legacy", [False, True])
def test_broken(tmp_path, legacy):
    content = saved({"weight": torch.tensor(ROWS[:2])}, legacy)
    random = np.random.default_rng(5)
    path = tmp_path / "x"
    sizes = random.integers(1, len(content), 60).tolist()
    changed = [content[:size] for size in sizes]
    for at in random.integers(0, len(content), 400).tolist():
        changed.append(content[:at] + random.bytes(1) + content[at + 1 :])
    for broken in changed:
        path.write_bytes(broken)
        try:
            source = formats.open(path)
            assert source.read().shape == source.shape
        except (FormatError, OptionError):
            pass


@pytest.mark.parametrize("dtype", ["float32", ">f8", "bfloat16", "float8_e4m3fn", "int8", "uint16"])
def test_is_written(put, dtype):
    rows = ROWS.astype(getattr(ml_dtypes, dtype, dtype))
    for part in (rows, rows[:0], rows.reshape(2, 2, 3), rows[:, 0]):
        content = written(part)
        assert formats.open(put(content)).dtype == part.dtype.newbyteorder("=")
        assert np.array_equal(formats.open(put(content)).read(), part)
    loaded = torch.load(io.BytesIO(written(rows)), weights_only=True)
    assert list(loaded) == ["weight"]
    assert torch.equal(loaded["weight"].float(), torch.tensor(ROWS))


def test_is_not_written():
    for dtype in ("U3", "M8[s]", "longdouble"):
        with pytest.raises(OptionError, match="dtype that torch has"):
            written(ROWS.astype("i8").astype(dtype))


def test_without_torch(put, monkeypatch):
    path = put(saved({"weight": torch.tensor(ROWS)}))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingLibraryError, match=r'pip install "shardwise\[torch\]"'):
        formats.open(path)
    with pytest.raises(MissingLibraryError):
        written(ROWS)
