"""No `.pt2` runs code: an archive with a pickle, an expression, a name or an entry that could is refused unread.

Each attack is a real one: PyTorch's own loader runs it, or would run it with the program.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from twins.errors import WeightsError
from twins.exporting.archive import load_archive
from twins.exporting.program import Unsafe, check_expression, check_values
from twins.exporting.sessions import open_session

from .conftest import export, info_of

MODEL = "models/model.json"


class Marker:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return export(tmp_path_factory.mktemp("archive") / "net.pt2", info_of())


def entries_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path, entries, *, folder="net/"):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(folder + name, content)
    return path


def with_inputs(path):
    """Return the entries of an archive with example inputs, as `torch.export.save` writes them."""
    inputs = ((torch.zeros(2, 64, 80, 3, dtype=torch.uint8),), {})
    return entries_of(path) | {"data/sample_inputs/model.pt": pickled(inputs)}


def with_program(entries, change):
    """Return the entries with the JSON of the program changed as a text."""
    text = entries[MODEL].decode()
    changed = change(text)
    assert changed != text
    return entries | {MODEL: changed.encode()}


def pickled(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def tensor_list(kind, path_name, *, use_pickle=True):
    meta = {"path_name": path_name, "is_param": False, "use_pickle": use_pickle, "tensor_meta": None}
    return {f"data/{kind}/model_{kind}_config.json": json.dumps({"config": {"weight": meta}}).encode()}


def pickles(entries, marker):
    """Each place of an archive that the loader unpickles."""
    evil = pickled((Marker(marker),))
    plain = pickle.dumps(Marker(marker))
    yield "example inputs", entries | {"data/sample_inputs/model.pt": evil}
    yield "weights", entries | tensor_list("weights", "weight_0") | {"data/weights/weight_0": evil}
    yield "constants", entries | tensor_list("constants", "tensor_0") | {"data/constants/tensor_0": evil}
    yield "objects", entries | tensor_list("constants", "opaque_obj_0") | {"data/constants/opaque_obj_0": plain}
    yield "old weights", entries | {"data/weights/model.pt": evil}
    yield "old constants", entries | {"data/constants/model.pt": evil}


def programs(entries, marker):
    """Programs whose loading or first call runs code."""
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    text = json.dumps(code)[1:-1]
    first = "Symbol('"
    yield "expression", with_program(entries, lambda t: t.replace(f'"{first}', f'"{text} or {first}', 1))
    yield "operator", with_program(entries, lambda t: t.replace("torch.ops.aten.softmax.int", "torch.os.system"))
    name = json.dumps(f"images={code}")[1:-1]
    yield "name", with_program(entries, lambda t: t.replace('"images"', f'"{name}"'))
    yield "container", with_program(entries, lambda t: t.replace("builtins.dict", "collections.defaultdict"))
    enum = json.dumps(json.dumps(json.dumps([{"__enum__": True, "fqn": "antigravity:x", "name": "y"}])))[3:-3]
    yield "enum", with_program(entries, lambda t: t.replace('\\"[\\\\\\"probabilities\\\\\\"]\\"', f'\\"{enum}\\"'))
    yield "file", with_program(entries, lambda t: t.replace("torch.ops.aten.softmax.int", "torch.ops.aten.save"))


def attacks(entries, marker):
    yield from pickles(entries, marker)
    yield from programs(entries, marker)


RUN_BY_PYTORCH = ("example inputs", "weights", "constants", "objects", "old weights", "old constants", "expression")
RUN_BY_PYTORCH += ("name",)


@pytest.mark.parametrize("attack", [*RUN_BY_PYTORCH, "operator", "container", "enum", "file"])
def test_an_archive_that_would_run_code_is_refused_by_one_sentence_and_runs_none(archive, tmp_path, attack):
    marker = tmp_path / "marker"
    path = write(tmp_path / "net.pt2", dict(attacks(entries_of(archive), marker))[attack])
    if attack in RUN_BY_PYTORCH:
        with contextlib.suppress(Exception):
            torch.export.load(path).module()
        run = marker.exists() or attack == "objects"  # PyTorch 2.11 does not run that one
        assert run, "PyTorch's loader does not run this: the attack is none"
        marker.unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=r"net.pt2 could run code when it is loaded, so it was not loaded \(it") as e:
        open_session(path)
    assert "\n" not in str(e.value)
    assert not marker.exists()


def test_guards_of_a_program_which_are_code_are_never_run(archive, tmp_path):
    marker = tmp_path / "marker"
    guard = json.dumps([f"__import__('pathlib').Path({str(marker)!r}).touch() is None"])
    entries = with_program(
        with_inputs(archive), lambda text: text.replace('"guards_code": []', f'"guards_code": {guard}')
    )
    path = write(tmp_path / "net.pt2", entries)
    images = np.zeros((1, 64, 64, 3), np.uint8)
    assert open_session(path).run(images)["probabilities"].shape == (1, 3)
    assert not marker.exists()
    torch.export.load(path).module()(torch.from_numpy(images))
    assert marker.exists(), "PyTorch does not run this: the attack is none"


@pytest.mark.parametrize("name", ["net/../../x", "/etc/x", "other/extra/x", "net/data/aotinductor/model/model.so", "x"])
def test_an_entry_that_no_network_needs_is_refused(archive, tmp_path, name):
    path = write(tmp_path / "net.pt2", entries_of(archive))
    with zipfile.ZipFile(path, "a") as more:
        more.writestr(name, b"")
    with pytest.raises(WeightsError, match=r"could run code .*\(it holds '"):
        open_session(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_twice_and_a_compressed_one_are_refused(archive, tmp_path):
    path = write(tmp_path / "net.pt2", entries_of(archive))
    with zipfile.ZipFile(path, "a") as more:
        more.writestr(f"net/{MODEL}", b"{}")
    with pytest.raises(WeightsError, match="two of its entries share a name or their bytes"):
        open_session(path)
    with zipfile.ZipFile(write(path, entries_of(archive)), "a", zipfile.ZIP_DEFLATED) as more:
        more.writestr("net/extra/zeros.json", bytes(100_000))
    with pytest.raises(WeightsError, match=r"its entry extra/zeros\.json is compressed"):
        open_session(path)


def test_the_lists_of_an_archive_are_compressed_and_bounded(archive, tmp_path):
    with zipfile.ZipFile(archive) as saved:
        listed = saved.getinfo(next(name for name in saved.namelist() if name.endswith(MODEL)))
    assert listed.compress_size < 0.2 * listed.file_size
    path = write(tmp_path / "net.pt2", {name: text for name, text in entries_of(archive).items() if name != MODEL})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as more, more.open(f"net/{MODEL}", "w") as bomb:
        for _ in range(2**8 + 1):
            bomb.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(WeightsError, match=r"its entry models/model.json has 26\d+ bytes when it is unpacked"):
        open_session(path)


def test_an_archive_of_an_older_pytorch_whose_tensors_are_pickled_is_refused(tmp_path):
    marker = tmp_path / "marker"
    names = ("state_dict", "constants", "example_inputs")
    entries = {f"serialized_{name}.pt": pickled((Marker(marker),)) for name in names}
    entries |= {"version": b"8.8", "serialized_exported_program.json": b"{}"}
    path = write(tmp_path / "net.pt2", entries, folder="")
    with pytest.raises(WeightsError, match=r"before 2\.8, whose tensors are pickled"):
        open_session(path)
    assert not marker.exists()


def test_an_empty_tensor_that_claims_a_large_shape_is_damaged(archive, tmp_path):
    entries = entries_of(archive) | {"data/weights/weight_0": b""}
    with pytest.raises(WeightsError, match="damaged or cut short"):
        load_archive(write(tmp_path / "net.pt2", entries))


def test_example_inputs_that_are_tensors_are_accepted(archive, tmp_path):
    assert load_archive(write(tmp_path / "net.pt2", with_inputs(archive))).graph_signature.user_inputs == ("images",)


@pytest.mark.parametrize(
    "text",
    [
        "Mul(Integer(-1), Symbol('s14', positive=True, integer=True))",
        "PythonMod(Mul(Integer(-1), Symbol('s90', positive=True)), Integer(4))",
        "Max(Integer(1), FloorDiv(Symbol('s0'), Float('0.5', precision=53)))",
        "true",
    ],
)
def test_expressions_over_sizes_are_accepted(text):
    check_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "Integer.__class__",
        "Symbol('s0').free_symbols",
        "Symbol('os.system(1)')",
        "Max('os', Integer(1))",
        "lambda: 1",
        "[Integer(1) for i in Symbol('s0')]",
        "preview(Symbol('s0'))",
        "Integer(1",
        "(" * 5000,
    ],
)
def test_other_expressions_are_refused(text):
    with pytest.raises(Unsafe, match="its program has the expression"):
        check_expression(text)


def test_a_file_holds_no_paths_and_source_lines_of_the_machine_that_wrote_it(archive):
    program = entries_of(archive)[MODEL].decode()
    assert __file__.rpartition("/")[0] not in program
    assert "torch/nn" not in program


def test_infinity_is_a_number_and_no_name():
    check_values({"arg": {"as_float": "-Infinity"}, "args": {"as_floats": ["NaN", 1.0]}})
    with pytest.raises(Unsafe, match="its program has '-Infinity' in the field name"):
        check_values({"name": "-Infinity"})
