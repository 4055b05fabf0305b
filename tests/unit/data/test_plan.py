"""The reading plan: each file of a folder is used or passed over with its reason."""

from __future__ import annotations

import json

from twins.data.plan import ANNOTATION, ARCHIVE, HIDDEN, IMAGE, MAX_GROUPS, NO_DATA, UNREAD, ReadingPlan, account


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def groups(root, used=(), reasons=None):
    """Return the files passed over, as count and first file by folder and reason, after a check that none is lost."""
    kinds, passed, files = account(
        root, {str(root / name): "images" for name in used}, {str(root / k): v for k, v in (reasons or {}).items()}
    )
    assert kinds == ({"images": len(used)} if used else {})
    assert sum(kinds.values()) + sum(group.count for group in passed) == files
    return {(group.folder, group.reason): (group.count, group.first) for group in passed}


def test_a_file_that_is_not_used_has_a_reason_by_its_name(tmp_path):
    touch(tmp_path, "used.png", "a.PNG", "sub/b.jpg", "sub/c.jpg", "raw.cr2", "x.csv", "all.tar.gz", "README.txt")
    touch(tmp_path, "Thumbs.db", ".git/a.png", "__MACOSX/._a.png", "LICENSE", "notes.docx")
    assert groups(tmp_path, ["used.png"]) == {
        (".", IMAGE): (1, "a.PNG"),
        ("sub", IMAGE): (2, "sub/b.jpg"),
        (".", UNREAD): (1, "raw.cr2"),
        (".", ANNOTATION): (1, "x.csv"),
        (".", ARCHIVE): (1, "all.tar.gz"),
        (".", NO_DATA): (3, "LICENSE"),
        (".", HIDDEN): (1, "Thumbs.db"),
        (".git", HIDDEN): (1, ".git/a.png"),
        ("__MACOSX", HIDDEN): (1, "__MACOSX/._a.png"),
    }


def test_a_reason_given_for_a_folder_holds_for_all_that_is_in_it_and_not_used(tmp_path):
    touch(tmp_path, "a/b/c/d/1.png", "a/b/2.png", "a/3.png", "a/own.txt")
    assert groups(tmp_path, ["a/3.png"], {"a": "without a class", "a/own.txt": "a list of another set"}) == {
        ("a", "without a class"): (2, "a/b/2.png"),
        ("a", "a list of another set"): (1, "a/own.txt"),
    }
    assert groups(tmp_path, [], {"a": "outer", "a/b": "inner"})[("a/b", "inner")] == (2, "a/b/2.png")


def test_files_in_linked_folders_count_once_for_each_way_to_them_and_loops_end(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    touch(root, "a/1.png")
    touch(other, "2.png", "deep/3.png")
    (root / "linked").symlink_to(other)
    (root / "a" / "loop").symlink_to(root)
    (other / "back").symlink_to(other)
    (root / "nothing.png").symlink_to(tmp_path / "missing.png")
    (root / "same.png").symlink_to(root / "a" / "1.png")
    (root / "self").symlink_to(root / "self")
    (root / "through").symlink_to(root / "a" / "1.png" / "b")
    assert groups(root, ["linked/2.png", "a/1.png"]) == {
        ("linked/deep", IMAGE): (1, "linked/deep/3.png"),
        (".", IMAGE): (2, "nothing.png"),
        (".", NO_DATA): (2, "self"),
    }


def test_many_folders_are_joined_by_their_upper_folders(tmp_path):
    for number in range(MAX_GROUPS + 1):
        touch(tmp_path, f"frames/{number:03d}/0.png")
    touch(tmp_path, "frames/1.png")
    assert groups(tmp_path) == {("frames", IMAGE): (MAX_GROUPS + 2, "frames/000/0.png")}


def test_the_short_plan_shows_parts_and_what_somebody_may_miss(tmp_path):
    touch(tmp_path, "LICENSE", ".hidden", *(f"{number}/a.png" for number in range(8)), "7/b.png")
    _, passed, files = account(tmp_path, {}, {})
    parts = {"train": {"images": 1200, "origin": "train"}, "val": {"images": 1, "origin": "val"}}
    plan = ReadingPlan("class folders", ("train", "val"), parts, "the folders", {"images": 1201}, 0, passed, files)
    lines = plan.short()
    assert lines[0] == "images, read as class folders: 1,200 train (train), 1 val (val)"
    assert lines[1] == "passed over: 1 file in 0: an image that this layout does not use; 0/a.png first"
    assert lines[-1] == "passed over: 3 more files; twins check lists them"
    assert not any("LICENSE" in line or "hidden" in line for line in lines)
    assert "passed over: 1 file in the data folder: neither image nor annotation; LICENSE first" in plan.lines()
    assert json.loads(json.dumps(plan.to_dict()))["passed_over"][0]["reason"] == IMAGE


def test_a_single_file_of_a_kind_is_not_called_several():
    plan = ReadingPlan(
        "masks", used={"images": 1, "annotation files": 1, "files of class names": 1, "masks": 2}, files=5
    )
    assert plan.lines()[-1] == "used: 1 image, 1 annotation file, 1 file of class names, 2 masks of 5 files"


def test_an_empty_folder_has_an_empty_account(tmp_path):
    assert account(tmp_path, {}, {}) == ({}, (), 0)
