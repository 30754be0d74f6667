"""Files of others are read as they are meant, and nothing that they name is ever run."""

import os
import pathlib
import pickle
import re
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from vemoclap_batch.fusion.safe_pickle import load


def written(path, value, how):
    """The value in one of the formats that a lab's file may have."""
    if isinstance(how, int):
        path.write_bytes(pickle.dumps(value, how))
    elif how == "numpy 1":
        # As numpy before 2 wrote it: its modules were called numpy.core.
        path.write_bytes(pickle.dumps(value, 2).replace(b"numpy._core.", b"numpy.core."))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=how != "old torch")
    if how == "torch, numpy 1":
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, record in records.items():
                archive.writestr(name, record.replace(b"cnumpy._core.", b"cnumpy.core."))
    return path


FORMATS = [0, 2, 3, 4, 5, "numpy 1", "torch", "torch, numpy 1", "old torch"]


@pytest.mark.parametrize("how", FORMATS)
def test_numbers_arrays_and_containers_come_back_as_they_were(tmp_path, how):
    rng = np.random.default_rng(0)
    arrays = {
        "matrix": rng.random((5, 3), np.float32),
        "columns": np.asfortranarray(rng.random((4, 3))),
        "slice": rng.random((6, 4), np.float32)[::2, 1:],
        "transposed": rng.random((2, 3)).T,
        "half": rng.random(3).astype(np.float16),
        "big endian": np.arange(4, dtype=">i4"),
        "empty": np.zeros((0, 7), np.float32),
        "nothing": np.array([]),
        "one": np.array(2.5),
        "flags": np.array([True, False]),
        "names": np.array(["anger", "joy é"]),
    }
    rest = OrderedDict(
        mean=np.float32(1.25), count=np.int64(3), name=np.str_("joy"), items=[1, -2, 3.5, None, True, "é"],
        pair=(1, (2,)), many={1, 2}, raw=b"ab", nothing=b"",
    )  # fmt: skip
    found = load(written(tmp_path / "f", {"arrays": arrays, "rest": rest, "shared": rest}, how))
    assert list(found) == ["arrays", "rest", "shared"]
    for name, array in arrays.items():
        assert type(found["arrays"][name]) is np.ndarray
        assert found["arrays"][name].dtype == array.dtype
        np.testing.assert_array_equal(found["arrays"][name], array)
    assert type(found["rest"]) is dict
    assert found["rest"] == dict(rest)
    assert found["rest"]["mean"].dtype == np.float32
    assert found["shared"] is found["rest"]


@pytest.mark.parametrize("how", [2, 4, "torch", "old torch"])
def test_tensors_become_arrays(tmp_path, how):
    torch.manual_seed(0)
    base = torch.rand(4, 6)
    given = {
        "whole": base,
        "view": base[1:3, ::2],
        "transposed": base.T,
        "half": base.half(),
        "brain": base.bfloat16(),
        "count": torch.tensor(3),
        "parameter": torch.nn.Linear(2, 2).state_dict()["weight"],
    }
    found = load(written(tmp_path / "f", given, how))
    for name, tensor in given.items():
        assert type(found[name]) is np.ndarray
        np.testing.assert_array_equal(found[name], tensor.float().numpy() if name == "brain" else tensor.numpy())


def test_a_configuration_with_a_device_and_a_path_is_read(tmp_path):
    given = {
        "device": torch.device("cuda", 0), "path": pathlib.PurePosixPath("/data/x"), "lengths": torch.Size([1, 16]),
        "kind": np.dtype("float32"),
    }  # fmt: skip
    expected = {"device": "cuda:0", "path": "/data/x", "lengths": (1, 16), "kind": np.dtype("float32")}
    for how in ("torch", 2, 4):
        assert load(written(tmp_path / "f", given, how)) == expected


class Calls:
    """Pickles as a call of a function, or as an object that a state is set on."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Sets:
    def __setstate__(self, state):
        pathlib.Path(state["touch"]).touch()

    def __getstate__(self):
        return {"touch": os.environ["MARK"]}


def hostile(mark):
    command = f"touch {mark}"
    return {
        "posix.system": Calls(os.system, command),
        "builtins.eval": Calls(eval, f"open({str(mark)!r}, 'w')"),
        "builtins.exec": [1, {"features": (Calls(exec, f"open({str(mark)!r}, 'w')"),)}],
        "builtins.getattr": Calls(getattr, Calls(getattr, np.zeros(1), "ctypes"), "x"),
        "io.open": {Calls(open, str(mark), "w"): 1},
        "functools.partial": Calls(__import__("functools").partial, os.system, command),
        "numpy.load": Calls(np.load, str(mark)),
        "torch.serialization.load": Calls(torch.load, str(mark)),
        f"{__name__}.Sets": Sets(),
        "numpy.memmap": Calls(np.memmap, str(mark), "u1", "w+", 0, (8,)),
    }


@pytest.mark.parametrize("how", [2, 4, 5, "torch", "old torch"])
@pytest.mark.parametrize("name", list(hostile("x")))
def test_nothing_that_a_file_names_is_run(tmp_path, monkeypatch, name, how):
    mark = tmp_path / "mark"
    monkeypatch.setenv("MARK", str(mark))
    path = written(tmp_path / "features.pkl", {"samples": hostile(mark)[name]}, how)
    with pytest.raises(ValueError, match=rf"features\.pkl is refused: it names {re.escape(name)}, which"):
        load(path)
    assert not mark.exists()


def test_the_hostile_files_do_run_where_nothing_stops_them(tmp_path, monkeypatch):
    """Otherwise the test above could not fail."""
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    for name in ("posix.system", "builtins.eval", "builtins.exec", f"{__name__}.Sets"):
        pickle.loads(pickle.dumps(hostile(tmp_path / "mark")[name]))
        assert (tmp_path / "mark").exists()
        (tmp_path / "mark").unlink()


def test_a_storage_inside_a_plain_pickle_is_no_way_round(tmp_path):
    mark = tmp_path / "mark"
    inner = written(tmp_path / "inner", Calls(os.system, f"touch {mark}"), "old torch").read_bytes()
    path = written(tmp_path / "f.pkl", Calls(torch.storage._load_from_bytes, inner), 2)
    with pytest.raises(ValueError, match=r"names posix\.system,"):
        load(path)
    inner = written(tmp_path / "inner", [1, 2], "old torch").read_bytes()
    with pytest.raises(ValueError, match="a storage that is a list"):
        load(written(tmp_path / "f.pkl", Calls(torch.storage._load_from_bytes, inner), 2))
    assert not mark.exists()


def reduced(array):
    """What numpy writes of an array: how to make one, and its state, to be tampered with."""
    make, arguments, state = array.__reduce__()
    return make, arguments, list(state)


def rebuilt(make, arguments, state):
    call = Calls(make, *arguments)
    call.call = (*call.call, tuple(state))
    return call


def tampered():
    make, arguments, state = reduced(np.arange(6, dtype=np.float64))
    kind, kind_arguments, _ = np.dtype("V8").__reduce__()
    objects = Calls(kind, *kind_arguments)
    # A record with a field of Python objects, whose flags deny it: numpy would take the bytes for addresses.
    objects.call = (*objects.call, (3, "|", None, ("o",), {"o": (np.dtype("O"), 0)}, 8, 1, 0))
    larger = rebuilt(kind, ("f8", False, True), (3, "<", None, None, None, 800, -1, 0))
    version, _, dtype, order, data = state
    return {
        "array of objects": np.array([{"a": 1}, None], object),
        "array of records": np.zeros(2, [("x", "f4")]),
        "dates": np.array(["2020-01-01"], "M8[D]"),
        "huge shape": rebuilt(make, arguments, [version, (1 << 40,), dtype, order, data]),
        "negative shape": rebuilt(make, arguments, [version, (-2, -3), dtype, order, data]),
        "two shapes in one": rebuilt(make, arguments, [version, (1 << 33, 1 << 33), dtype, order, b""]),
        "huge reconstruct": Calls(make, np.ndarray, (1 << 40,), b"d"),
        "called constructor": Calls(np.ndarray, (1 << 40,)),
        "no bytes": rebuilt(make, arguments, [version, (2,), dtype, order, [1.0, 2.0]]),
        "smuggled objects": rebuilt(make, arguments, [version, (1,), objects, order, b"\1" * 8]),
        "dtype of another size": rebuilt(make, arguments, [version, (6,), larger, order, data]),
        "object scalar": Calls(np._core.multiarray.scalar, np.dtype("O"), "x"),
        "long scalar": Calls(np._core.multiarray.scalar, np.dtype("S999999999"), b"x"),
        "a million bytes": Calls(bytes, 1_000_000),
    }


@pytest.mark.parametrize("how", [2, 4, "torch"])
@pytest.mark.parametrize("name", list(tampered()))
def test_arrays_are_made_of_bytes_in_the_file(tmp_path, name, how):
    with pytest.raises(ValueError, match=r"f\.pkl"):
        load(written(tmp_path / "f.pkl", {"x": tampered()[name]}, how))


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("how", [2, "torch", "old torch"])
@pytest.mark.parametrize("size", [(1000, 1000), (1 << 40,), (1 << 17,)])
def test_a_tensor_has_no_more_numbers_than_its_storage(tmp_path, size, how):
    tensor = torch.zeros(4)
    make, (storage, *_, grad, hooks) = tensor.__reduce_ex__(2)
    stride = (size[-1], 1)[-len(size) :]
    value = Calls(make, storage if how == 2 else tensor.storage(), 0, size, stride, grad, hooks)
    with pytest.raises(ValueError, match=r"f\.pkl"):
        load(written(tmp_path / "f.pkl", value, how))


@pytest.mark.parametrize("how", [2, "torch"])
def test_a_repeated_view_does_not_unfold(tmp_path, how):
    with pytest.raises(ValueError, match="far larger than the file"):
        load(written(tmp_path / "f.pkl", torch.zeros(1).expand(1 << 20, 1 << 10), how))


def test_small_files_do_not_ask_for_much_memory(tmp_path):
    path = tmp_path / "f.pkl"
    path.write_bytes(b"\x80\x04K\x01r" + struct.pack("<I", 1 << 31) + b".")
    with pytest.raises(ValueError, match="a memo of 2147483648 entries"):
        load(path)
    # One text, turned to bytes again and again.
    text = b"X" + struct.pack("<I", 1 << 16) + b"a" * (1 << 16)
    encode = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    path.write_bytes(b"\x80\x02(" + text + b"q\x00" + encode * 1000 + b"l.")
    with pytest.raises(ValueError, match="far larger than the file"):
        load(path)
    with pytest.raises(ValueError, match=r"_codecs\.encode of bytes to 'zip'"):
        load(written(path, Calls(__import__("_codecs").encode, b"x" * 100, "zip"), 2))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02N." + b"\0" * 1_000_000)
    with pytest.raises(ValueError, match="compressed"):
        load(path)


def test_the_makers_themselves_cannot_be_altered(tmp_path):
    path = tmp_path / "f.pkl"
    scalar = b"cnumpy._core.multiarray\nscalar\n"
    path.write_bytes(b"\x80\x02" + scalar + b"N}X\x0c\x00\x00\x00__defaults__N)s\x86b.")
    with pytest.raises(ValueError, match=r"f\.pkl"):
        load(path)
    state = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb."
    path.write_bytes(state)
    assert load(path) == {}


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04", b"PK\x03\x04", b"\x80\x02]q\x00h\x00a"])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "f.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"f\.pkl cannot be read"):
        load(tmp_path / "f.pkl")


def test_loops_and_depth_end(tmp_path):
    loop = [1]
    loop.append(loop)
    found = load(written(tmp_path / "f", loop, 4))
    assert found[1] is found
    wide = "x"
    for _ in range(200):
        wide = (wide, wide)
    assert len(load(written(tmp_path / "f", wide, 4))) == 2
    (tmp_path / "f").write_bytes(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".")
    with pytest.raises(ValueError, match="RecursionError"):
        load(tmp_path / "f")


def test_a_file_that_is_not_there_is_not_called_broken(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere.pkl")
