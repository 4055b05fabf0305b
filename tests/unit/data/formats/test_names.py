"""A name finds its file in every spelling, where no other file can be meant."""

from __future__ import annotations

import random
import unicodedata

import pytest

from twins.data.formats.names import find_files, find_listed, match_names, match_stems, read_list
from twins.errors import DataError

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "B\u00e4ume") for form in ("NFC", "NFD"))
IMPOSSIBLE = ["a" * 300, "sub/" + "a" * 300 + ".jpg", "a\0b", "\0", "", ".", "..", "/", "x" * 5000, "\\"]
"""Names that no file has."""


@pytest.fixture
def folder(tmp_path):
    """Make empty files by their paths."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("name", "file", "spelling"),
    [
        ("sub\\a.jpg", "sub/a.jpg", "separators"),
        (".\\sub\\a.jpg", "sub/a.jpg", "separators"),
        (f"sub/{COMPOSED}.jpg", f"sub/{DECOMPOSED}.jpg", "Unicode form"),
        (f"{DECOMPOSED}/a.jpg", f"{COMPOSED}/a.jpg", "Unicode form"),
        (f"sub\\{COMPOSED}.jpg", f"sub/{DECOMPOSED}.jpg", "Unicode form"),
        ("C:\\data\\a.jpg", "sub/a.jpg", "folders"),
        ("/other/machine/a.jpg", "sub/a.jpg", "folders"),
        ("..\\..\\upload\\1\\a.jpg", "a.jpg", "folders"),
        ("SUB/A.JPG", "sub/a.jpg", "case"),
        ("a.JPG", "sub/a.jpg", "case and folders"),
    ],
)
def test_another_spelling_of_one_file_finds_it(folder, name, file, spelling):
    root = folder(file, "other.jpg")
    found = find_files([name], root)
    assert found.paths == {name: root / file}
    assert found.note("a.json")[0].startswith(f"a.json: 1 name found although spelled otherwise, in {spelling} (1); ")


def test_names_as_written_are_left_alone(folder):
    root = folder("a.jpg", "sub/a.jpg", "back\\slash.jpg")
    found = find_files(["a.jpg", "sub/a.jpg", "back\\slash.jpg", "sub/../a.jpg"], root)
    assert (found.paths, found.note("a.json")) == ({}, [])


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["x/a.jpg"], ["y/a.jpg", "z/a.jpg"]),  # two files of one last part
        (["x/a.jpg", "z/a.jpg"], ["y/a.jpg"]),  # two names for one file
        (["A.jpg"], ["a.jpg", "a.JPG"]),  # two files that differ by case
        (["a.jpg", "x\\a.jpg"], ["a.jpg"]),  # the file of another name
        (["train/a.jpg"], ["val/a.jpg"]),  # the file of another part
        (["b.jpg"], ["a.jpg"]),
    ],
)
def test_where_another_file_or_name_can_be_meant_nothing_is_found(folder, names, files):
    assert find_files(names, folder(*files)).paths == {}


def test_of_files_with_one_last_part_the_one_in_the_same_folders_is_found(folder):
    root = folder("train/a.jpg", "val/a.jpg", "val/b.jpg")
    names = ["C:\\data\\train\\a.jpg", "C:\\data\\val\\a.jpg"]
    assert find_files(names, root).paths == {names[0]: root / "train/a.jpg", names[1]: root / "val/a.jpg"}


def test_hidden_files_and_files_outside_are_not_found(folder):
    root = folder(".trash/a.jpg", "images/b.jpg", "a.jpg")
    assert find_files(["x/a.jpg"], root / "images").paths == {}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_name_that_no_file_can_have_finds_none(folder, name):
    root = folder("a.jpg", "sub/b.jpg")
    assert find_files([name, "a.jpg"], root).paths == {}
    assert match_names([name], ["a.jpg"]) == {}


def test_a_missing_folder_has_no_files(tmp_path):
    assert find_files(["a.jpg"], tmp_path / "none").paths == {}


def test_each_file_belongs_to_one_name_whatever_the_names():
    draw = random.Random(0)
    parts = ["a", "A", COMPOSED, DECOMPOSED, "train", "val", "C:", ".."]
    for _ in range(300):
        names, files = (
            {sign.join(draw.choices(parts, k=draw.randint(1, 3))) for _ in range(6)} for sign in ("\\", "/")
        )
        matches = match_names(sorted(names), sorted(files))
        assert set(matches) <= names
        used = [match.file for match in matches.values()]
        assert len(used) == len(set(used))
        assert set(used) <= files


def test_stems_are_matched_by_case_and_unicode_form_but_not_by_folders(tmp_path):
    files = {name: tmp_path / f"{name}.xml" for name in ("a", DECOMPOSED, "B", "sub/c")}
    found = match_stems(["a", COMPOSED, "b", "c"], files)
    assert found.paths == {COMPOSED: files[DECOMPOSED], "b": files["B"]}


def test_a_list_names_files_with_and_without_endings_flags_and_folders(tmp_path):
    known = {"a", "b", "street 1", "street", DECOMPOSED}
    lines = ["a", "b.jpg -1", "street 1", "street  1", COMPOSED, "gone"]
    names, notes = find_listed(lines, tmp_path / "train.txt", known)
    assert names == ["a", "b", "street 1", "street", DECOMPOSED, "gone"]
    assert len(notes) == 1
    assert find_listed(["JPEGImages\\a.jpg"], tmp_path / "train.txt", known)[0] == ["a"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_is_read_in_the_encodings_of_text_editors(tmp_path, encoding):
    (tmp_path / "train.txt").write_bytes(f" {COMPOSED} 1\r\n\r\nb\n".encode(encoding))
    assert read_list(tmp_path / "train.txt") == [f"{COMPOSED} 1", "b"]


def test_a_list_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt cannot be read"):
        read_list(tmp_path / "none.txt")


def test_a_folder_that_no_disk_can_have_holds_no_files(tmp_path):
    assert find_files(["a.txt"], tmp_path / "x\0").paths == {}


def test_a_listed_path_with_folders_and_spaces_is_the_image_of_its_whole_name(tmp_path):
    names, _ = find_listed(["JPEGImages/b 2.jpg", "JPEGImages/c.jpg 1"], tmp_path / "list.txt", {"b", "b 2", "c"})
    assert names == ["b 2", "c"]
