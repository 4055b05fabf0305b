"""`twins check` of masks: it names every fault that would spoil a run, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.config import DataConfig, MaskConfig
from twins.tasks.semantic.spec import SPEC

HALVES = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 6, axis=0)


@pytest.fixture
def data(tmp_path, save_image, save_mask):
    """A clean set of two classes: three pairs to train on, two to evaluate on."""
    (tmp_path / "classes.txt").write_text("soil\nroot\n")
    for part, count in (("train", 3), ("val", 2)):
        for number in range(count):
            save_image(tmp_path / "images" / part / f"{number}.png", (8 + number, 6))
            wider = np.concatenate([HALVES, np.ones((6, number))], axis=1)
            save_mask(tmp_path / "masks" / part / f"{number}.png", wider)
    return tmp_path


def check(root, **masks):
    return SPEC.check(DataConfig(data=str(root), masks=MaskConfig(**masks)))


def only_problem(root, **masks):
    """Return the one problem of a set."""
    (problem,) = check(root, **masks).problems
    assert "\n" not in problem
    return problem


def test_a_clean_set_has_no_problem_and_the_right_counts(data):
    report = check(data)
    assert (report.problems, report.notes) == ([], [])
    assert report.names == ["soil", "root"]
    assert report.images == {"train": 3, "val": 2}
    assert report.counts == {"train": {"soil": 3, "root": 3}, "val": {"soil": 2, "root": 2}}
    assert report.shares["train"] == pytest.approx({"soil": 12 / 27, "root": 15 / 27}, abs=1e-6)
    assert report.sizes == {"width": [8, 9, 10], "height": [6, 6, 6]}


def test_ignored_pixels_take_no_share(data, save_mask):
    for number in range(3):
        save_mask(
            data / "masks" / "train" / f"{number}.png", np.where(np.arange(8 + number) < 2, [[255]] * 6, [[1]] * 6)
        )
    save_mask(data / "masks" / "train" / "0.png", np.where(np.arange(8) < 2, [[255]] * 6, [[0]] * 6))
    report = check(data)
    assert report.shares["train"] == pytest.approx({"soil": 6 / 21, "root": 15 / 21}, abs=1e-6)
    assert report.problems == []


def test_values_beyond_the_classes_are_named(data, save_mask):
    path = save_mask(data / "masks" / "val" / "0.png", HALVES * 7)
    assert only_problem(data).startswith(f"{path} holds values that no class has: 7 (50.0% of its pixels)")


def test_masks_of_0_and_255_where_255_is_ignored_are_recognised(data, save_mask):
    for part, count in (("train", 3), ("val", 2)):
        for number in range(count):
            values = np.concatenate([HALVES, np.ones((6, number))], axis=1) * 255
            save_mask(data / "masks" / part / f"{number}.png", values)
    assert '`masks.values="binary"`' in only_problem(data, values="index")
    assert check(data).problems == []
    assert any("two classes" in note for note in check(data).notes)
    (data / "classes.txt").write_text("soil\nroot\nstone\n")
    assert '`masks.values="binary"`' in only_problem(data)


def test_a_mask_of_another_size_is_named_with_both_sizes(data, save_mask):
    save_mask(data / "masks" / "train" / "1.png", HALVES)
    problem = only_problem(data)
    assert problem.startswith(str(data / "images" / "train" / "1.png"))
    assert "the mask has 8 x 6 pixels, its image 9 x 6; save both at the same size" in problem


def test_a_class_that_training_lacks_is_named(data, save_mask):
    for number in range(3):
        save_mask(data / "masks" / "train" / f"{number}.png", np.zeros((6, 8 + number)))
    assert only_problem(data) == "class root is in 2 images to evaluate on and in none to train on; move some"


def test_a_class_of_one_pixel_counts_as_present(data, save_mask):
    for number in range(3):
        save_mask(data / "masks" / "train" / f"{number}.png", np.arange(6 * (8 + number)).reshape(6, -1) == 20)
    report = check(data)
    assert report.problems == []
    assert report.counts["train"] == {"soil": 3, "root": 3}


@pytest.mark.parametrize("more", [1, 10, 11])
def test_classes_that_no_image_has_are_a_note_and_no_problem(data, more):
    (data / "classes.txt").write_text("\n".join(["soil", "root", *(f"class{i}" for i in range(more))]))
    report = check(data)
    assert report.problems == []
    (note,) = (note for note in report.notes if "class0" in note)
    assert note.startswith(f"{more} of the {more + 2} classes {'is' if more == 1 else 'are'} in no image")


def test_a_mask_of_ignored_pixels_only_is_named(data, save_mask):
    save_mask(data / "masks" / "val" / "1.png", np.full((6, 9), 255))
    expected = f"the mask of {data / 'images' / 'val' / '1.png'} holds only ignored pixels; remove the pair"
    assert only_problem(data) == expected


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty (0 bytes)"), (b"text", "is no image in a known format"), (None, "is damaged")],
)
def test_damaged_files_are_named(data, kind, content, message):
    path = data / kind / "train" / "2.png"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    assert only_problem(data).startswith(f"{path} {message}")


def test_a_mask_that_holds_no_classes_is_named(data):
    from PIL import Image

    path = data / "masks" / "train" / "0.png"
    path.unlink()
    Image.new("CMYK", (8, 6)).save(path.with_suffix(".tif"))
    assert only_problem(data).startswith(f"{path.with_suffix('.tif')} is an image of mode CMYK")


def test_the_same_image_in_both_parts_is_named(data):
    original = data / "images" / "train" / "0.png"
    copy = data / "images" / "val" / "0.png"
    copy.write_bytes(original.read_bytes())
    expected = f"the same image is in training and in evaluation: {original}, {copy}; keep it in one"
    assert only_problem(data) == expected


def test_every_problem_is_named_at_once(data, save_mask):
    (data / "images" / "val" / "0.png").write_bytes(b"")
    save_mask(data / "masks" / "val" / "1.png", np.full((6, 9), 3))
    save_mask(data / "masks" / "train" / "2.png", np.full((6, 10), 255))
    assert len(check(data).problems) == 3


def test_a_class_of_few_pixels_is_worth_a_note(data, save_image, save_mask):
    save_image(data / "images" / "train" / "large.png", (80, 60))
    save_mask(data / "masks" / "train" / "large.png", np.zeros((60, 80)))
    report = check(data)
    assert report.problems == []
    (note,) = report.notes
    assert "class soil fills 98.2% of the training pixels, root 1.81%" in note
    assert '`class_weights="balanced"`' in note


def test_decisions_made_in_opening_are_reported(data, save_image):
    (data / "classes.txt").unlink()
    save_image(data / "images" / "train" / "alone.png")
    notes = " ".join(check(data).notes)
    assert "classes are called by the 2 values that the masks hold" in notes
    assert "alone.png" in notes


def test_a_coco_set_is_checked_too(sample_data):
    report = SPEC.check(DataConfig(data=str(sample_data / "instance" / "nuts18")))
    assert report.problems == []
    assert sum(report.images.values()) == 12


def save_values(root, save_image, save_mask, values):
    """Write five pairs whose masks hold these values, without names of classes."""
    for number in range(5):
        save_image(root / "images" / f"{number}.png", (len(values), 6))
        save_mask(root / "masks" / f"{number}.png", [values] * 6)
    return root


def test_grey_levels_up_to_255_are_named_with_the_share_that_is_ignored(tmp_path, save_image, save_mask):
    root = save_values(tmp_path / "data", save_image, save_mask, [0, 0, 0, 128, 255])
    assert only_problem(root).startswith("255 is ignored and fills 20.0% of the pixels")
    (tmp_path / "classes.csv").write_text("value,name\n0,soil\n128,root\n255,leaf\n")
    report = check(root, classes=str(tmp_path / "classes.csv"))
    assert (report.problems, report.names) == ([], ["soil", "root", "leaf"])


def test_class_ids_with_ignored_pixels_are_no_grey_levels(tmp_path, save_image, save_mask):
    root = save_values(tmp_path, save_image, save_mask, [0, 0, 1, 2, 255])
    assert check(root).problems == []


def test_soft_edges_between_0_and_255_are_named(tmp_path, save_image, save_mask):
    edges = list(range(20, 240, 20))
    root = save_values(tmp_path, save_image, save_mask, [0] * 20 + edges + [255] * 10)
    assert only_problem(root).startswith("masks hold 13 values; 0 and 255 fill 73.2% of the pixels")
    report = check(root, values="binary")
    assert (report.problems, report.names) == ([], ["background", "foreground"])


@pytest.mark.parametrize(("orientation", "sides"), [(6, (8, 6)), (3, (8, 6)), (6, (8, 8))])
def test_images_that_their_exif_tag_turns_are_reported(tmp_path, save_mask, orientation, sides):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number in range(4):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", sides, (number, 0, 0)).save(path, exif=exif if number == 0 else Image.Exif())
        save_mask(tmp_path / "masks" / f"{number}.png", np.tile([0, 1], (sides[1], sides[0] // 2)))
    report = check(tmp_path)
    is_seen = orientation == 6 and sides[0] != sides[1]
    found = report.problems if is_seen else report.notes
    assert any("the image is turned by its EXIF tag" in text for text in found) == is_seen
    assert any("1 image turned by the EXIF tag" in text for text in found) == (not is_seen)
