"""`evaluate` measures the part that is asked for, whole sets without a training part, and says how many of how many."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

import twins
from twins.data.config import LayoutConfig
from twins.data.objects import encode_mask
from twins.engine.config import read_config
from twins.errors import ConfigError, DataError
from twins.tasks.inference import InferenceConfig, SelectionConfig
from twins.tasks.table import facts_of

pytestmark = pytest.mark.usefixtures("one_thread")
TASKS = ("classification", "semantic", "detection", "instance")
SLOW = [task if task == "classification" else pytest.param(task, marks=pytest.mark.slow) for task in TASKS]
NAMES = {"classification": ("cat", "dog"), "semantic": ("ground", "red"), "detection": ("red",), "instance": ("red",)}
PARTS = {"train": 4, "val": 3, "test": 2}
LOW = SelectionConfig(score=0.0, most=5)
"""With it, an untrained detector finds something in every image."""


def draw(seed):
    """Return a picture of noise with a rectangle, and the rectangle's (x, y, width, height)."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(90, 140, (40, 48, 3), dtype=np.uint8))
    x, y = int(random.integers(2, 20)), int(random.integers(2, 14))
    ImageDraw.Draw(image).rectangle((x, y, x + 19, y + 17), fill=(220, 40, 40))
    return image, (x, y, 20, 18)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def mask_of(box):
    x, y, width, height = box
    mask = np.zeros((40, 48), dtype=np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def write(root, task, parts, *, names=None, empty=False):
    """Write a data set of a task: `parts` gives the number of images; the part `""` is a set without parts."""
    names, seed = names or NAMES[task], 0
    for part, count in parts.items():
        pictures = [draw(seed + index) for index in range(count)]
        for index, (image, box) in enumerate(pictures):
            home = root / part / names[index % 2] if task == "classification" else root / "images" / part
            save(image, home / f"{seed + index}.png")
            if task == "semantic":
                mask = mask_of(box) * (not empty)
                save(Image.fromarray(mask), root / "masks" / part / f"{seed + index}.png")
        if task in ("detection", "instance"):
            write_coco(root / "annotations" / f"instances_{part or 'all'}.json", seed, pictures, names[0])
        seed += count
    if task == "semantic":
        (root / "classes.txt").write_text("\n".join(names))
    return root


def write_coco(path, first, pictures, name):
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": name}]}
    for number, (_, box) in enumerate(pictures, start=first):
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": 48, "height": 40})
        rle = encode_mask(mask_of(box).astype(bool))
        rle = {**rle, "counts": rle["counts"].decode()}
        annotation = {"id": number + 1, "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0}
        content["annotations"].append(annotation | {"area": box[2] * box[3], "segmentation": rle})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def networks():
    """A tiny network of each task, with the names of the data's classes."""
    return {task: twins.create_model("twins_svt_nano", task=task, names=NAMES[task]) for task in TASKS}


@pytest.fixture
def measure(networks, tmp_path):
    """Evaluate a task's network on a folder; returns the result after a comparison with its file."""

    def measure(task, root, **settings):
        out = tmp_path / "eval.json"
        result = twins.evaluate(
            networks[task], root, twins.EvalConfig(size=32, device="cpu", batch_size=8, out=str(out), **settings)
        )
        assert json.loads(out.read_text())["protocol"]["images"] == result.protocol["images"]
        return result

    return measure


def counts(result):
    return tuple(result.protocol[key] for key in ("split", "images", "images_in_data"))


@pytest.mark.parametrize("task", SLOW)
def test_each_part_and_all_of_them_can_be_measured(measure, tmp_path, task):
    root = write(tmp_path / "data", task, PARTS)
    assert counts(measure(task, root)) == ("val", 3, 9)
    assert counts(measure(task, root, part="test")) == ("test", 2, 9)
    assert counts(measure(task, root, part="all")) == ("all", 9, 9)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("part", ["val", "test"])
def test_a_set_without_a_training_part_is_measured_whole(measure, tmp_path, task, part):
    result = measure(task, write(tmp_path / "data", task, {part: 4}))
    assert counts(result)[1:] == (4, 4)
    assert not any("are measured" in note for note in result.notes)


@pytest.mark.parametrize("task", SLOW)
def test_scales_flip_and_tiles_are_measured_and_in_the_protocol(measure, tmp_path, task):
    root, applying = write(tmp_path / "data", task, PARTS), facts_of(task).inference
    selection = LOW if facts_of(task).selection else SelectionConfig()
    default = measure(task, root, selection=selection).protocol["inference"]
    assert default == {name: getattr(InferenceConfig(), name) for name in applying}
    for settings in ({"scales": (1.0, 1.5), "flip": True}, {"tile": 32, "overlap": 20}):
        if set(settings) <= set(applying):
            result = measure(task, root, selection=selection, inference=InferenceConfig(**settings))
            assert result.protocol["inference"] == default | settings
            assert (result.protocol["images"], result.skipped) == (3, ())
        else:
            with pytest.raises(ConfigError, match=r"`tile` is for .* networks, found one for classification"):
                measure(task, root, inference=InferenceConfig(**settings))


@pytest.mark.parametrize("task", SLOW)
def test_of_a_flat_set_a_share_is_measured_and_said(measure, tmp_path, task):
    root = write(tmp_path / "data", task, {"": 10} if task in ("classification", "semantic") else {"train": 10})
    result = measure(task, root)
    assert counts(result) == ("val", 2, 10)
    (note,) = (note for note in result.notes if "are measured" in note)
    assert note.startswith("2 of 10 images are measured")
    assert '`part="all"`' in note
    whole = measure(task, root, part="all")
    assert counts(whole) == ("all", 10, 10)
    assert not any("are measured" in note for note in whole.notes)


def test_a_missing_part_is_refused_with_the_parts_that_there_are(measure, tmp_path):
    root = write(tmp_path / "data", "classification", {"train": 4, "val": 4})
    with pytest.raises(DataError, match="has no test part, found train and val"):
        measure("classification", root, part="test")


def test_the_command_says_how_many_of_how_many(networks, run_cli, tmp_path):
    root, file = write(tmp_path / "data", "classification", {"": 10}), tmp_path / "cats.safetensors"
    twins.save_weights(networks["classification"], file)
    code, output, _ = run_cli("eval", file, "--data", root, "--size", 32, "--device", "cpu")
    assert code == 0
    assert "note: 2 of 10 images are measured" in output
    assert "--part all measures all of them" in output


@pytest.mark.parametrize("task", SLOW)
def test_a_map_renames_classes_and_is_in_the_protocol(measure, tmp_path, task):
    names = ("chat", "chien") if task == "classification" else ("sol", "rouge")[-len(NAMES[task]) :]
    root, file = write(tmp_path / "data", task, {"val": 4}, names=names), tmp_path / "map.json"
    with pytest.raises(DataError, match=r"does not know the data's classes .*`class_map=FILE`"):
        measure(task, root)
    file.write_text(json.dumps(dict(zip(names, NAMES[task], strict=True))))
    result = measure(task, root, class_map=str(file))
    assert result.protocol["class_matching"] == {"by": "class_map", "file": str(file), "left_out": "nothing"}
    assert {row["name"] for row in result.details["per_class"]} == set(NAMES[task])
    assert any("matched by `class_map`" in note for note in result.notes)


@pytest.mark.parametrize(("task", "left_out"), [("classification", "2 images"), ("semantic", "1,440 pixels")])
def test_a_class_that_a_map_leaves_out_is_counted_and_not_measured(measure, tmp_path, task, left_out):
    root, file = write(tmp_path / "data", task, {"val": 4}), tmp_path / "map.csv"
    file.write_text(f"{NAMES[task][1]},\n")
    result = measure(task, root, class_map=str(file))
    assert result.protocol["class_matching"]["left_out"] == left_out
    assert any(left_out in note for note in result.notes)
    row = result.details["per_class"][1]
    assert row["support" if task == "classification" else "pixels"] == 0
    assert result.protocol["images"] == (2 if task == "classification" else 4)


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_objects_that_a_map_leaves_out_are_dropped(tmp_path, task):
    root, file = write(tmp_path / "data", task, {"val": 3}), tmp_path / "map.yaml"
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 2, "name": "shadow"})
    content["annotations"] += [a | {"id": a["id"] + 100, "category_id": 2} for a in content["annotations"][:2]]
    path.write_text(json.dumps(content))
    file.write_text("shadow: null\n")
    model, results = twins.create_model("twins_svt_nano", task=task, names=("green", "red")), tmp_path / "results.json"
    config = twins.EvalConfig(size=32, device="cpu", class_map=str(file), results=str(results), selection=LOW)
    result = twins.evaluate(model, root, config)
    assert result.protocol["class_matching"]["left_out"] == "2 objects"
    assert [row["objects"] for row in result.details["per_class"]] == [0, 3]
    assert {entry["category_id"] for entry in json.loads(results.read_text())} <= {1}


def test_masks_without_any_object_are_measured(measure, networks, tmp_path):
    root = write(tmp_path / "data", "semantic", {"val": 3}, empty=True)
    assert measure("semantic", root).protocol["images"] == 3
    (root / "classes.txt").unlink()
    binary = twins.create_model("twins_svt_nano", task="semantic", names=("background", "foreground"))
    result = twins.evaluate(binary, root, twins.EvalConfig(size=32, device="cpu"))
    assert result.details["per_class"][0]["pixels"] == 3 * 40 * 48


def test_synset_folders_are_measured_by_imagenets_classifier(tmp_path):
    root = write(tmp_path / "data", "classification", {"val": 4}, names=("n01443537", "n01440764"))
    model = twins.create_model("twins_svt_nano", num_classes=1000)
    result = twins.evaluate(model, root, twins.EvalConfig(size=32, device="cpu"))
    assert result.protocol["class_matching"] == {"by": "synset"}
    assert [row["name"] for row in result.details["per_class"] if row["support"]] == ["tench", "goldfish"]


def test_lists_and_layout_settings_reach_the_evaluation(measure, tmp_path):
    root = write(tmp_path / "data", "classification", {"pictures": 4})
    for index, path in enumerate(sorted(root.glob("*/*/*.png"))):
        path.rename(root / f"{index}.png")
    (root / "labels.csv").write_text("image,label\n0,cat\n1,dog\n2,cat\n3,dog\n")
    layout = LayoutConfig(test=("labels.csv",))
    assert counts(measure("classification", root, layout=layout)) == ("test", 4, 4)


def change_annotations(root, part, *, category=None, first=None):
    """Give a part's file another category id, or its images ids from `first`."""
    path = root / "annotations" / f"instances_{part}.json"
    content = json.loads(path.read_text())
    if category is not None:
        content["categories"][0]["id"] = category
    for position, (image, annotation) in enumerate(zip(content["images"], content["annotations"], strict=True)):
        annotation["category_id"] = content["categories"][0]["id"]
        if first is not None:
            image["id"] = annotation["image_id"] = first + position
    path.write_text(json.dumps(content))


def test_results_have_the_ids_of_the_files_that_are_measured(measure, tmp_path):
    root, results = write(tmp_path / "data", "detection", PARTS), tmp_path / "results.json"
    change_annotations(root, "val", first=100)
    measure("detection", root, part="all", results=str(results), selection=LOW)
    assert {entry["image_id"] for entry in json.loads(results.read_text())} == {0, 1, 2, 3, 100, 101, 102, 7, 8}
    change_annotations(root, "test", category=9)
    measure("detection", root, part="test", results=str(results), selection=LOW)
    assert {entry["category_id"] for entry in json.loads(results.read_text())} == {9}
    with pytest.raises(ConfigError, match="the same category ids to different ones"):
        measure("detection", root, part="all", results=str(results), selection=LOW)
    change_annotations(root, "test", category=1, first=101)
    with pytest.raises(ConfigError, match="the same image ids to different ones"):
        measure("detection", root, part="all", results=str(results), selection=LOW)
    assert counts(measure("detection", root, part="all")) == ("all", 9, 9)


def test_an_image_of_two_parts_is_measured_once(measure, tmp_path):
    root = write(tmp_path / "data", "classification", {"pictures": 6})
    pictures = [path.rename(root / path.name).name for path in sorted(root.glob("*/*/*.png"))]
    for part, chosen in {"val": pictures[:4], "test": pictures[2:]}.items():
        lines = [f"{name},{NAMES['classification'][int(name[0]) % 2]}" for name in chosen]
        (root / f"{part}.csv").write_text("\n".join(["image,label", *lines]))
    assert counts(measure("classification", root, part="all")) == ("all", 6, 6)
    assert counts(measure("classification", root, part="test")) == ("test", 4, 6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on ten images without parts, of which it held out four by seed 3."""
    folder = tmp_path_factory.mktemp("trained")
    data = {"data": str(write(folder / "data", "classification", {"": 10})), "seed": 3, "val_share": 0.4}
    model = {"model": "twins_svt_nano", "weights": "none", "size": 32, "steps": 1, "batch_size": 2}
    twins.train(twins.TrainConfig(**data, **model, workers=0, device="cpu", out=str(folder / "run")))
    return folder / "run"


def held_out(run, model, data, **settings):
    """Return whether the images are those that the run held out, and the notes on what is measured."""
    result = twins.evaluate(model, data, twins.EvalConfig(device="cpu", **settings))
    same = result.hashes["images"] == json.loads((run / "eval.json").read_text())["hashes"]["images"]
    return same, [note for note in result.notes if "trained on" in note]


@pytest.mark.parametrize(
    "file", ["", "best.safetensors", "last/model.safetensors", "states/000000001/model.safetensors"]
)
def test_the_weight_files_of_a_run_are_measured_on_what_it_held_out(run, tmp_path, file):
    assert held_out(run, run / file, run.parent / "data") == (True, [])
    moved = shutil.copytree(run.parent / "data", tmp_path / "data")
    assert held_out(run, run / file, moved) == (True, [])


def test_a_measure_of_images_that_were_trained_on_is_said(run, tmp_path):
    data = run.parent / "data"
    assert held_out(run, run, data, val_share=0.2) == (False, [])
    for settings in ({"val_share": 0.5}, {"seed": 4}, {"layout": LayoutConfig(images=".")}):
        _, (note,) = held_out(run, run, data, **settings)
        assert note.startswith("the run held out images by `seed=3`, `val_share=0.4`")
    lone = shutil.copy(run / "best.safetensors", tmp_path)
    result = twins.evaluate(lone, data, twins.EvalConfig(device="cpu"))
    assert any("a training with `seed=0` and `val_share=0.2` holds out" in note for note in result.notes)
    picture = shutil.copy(data / "cat" / "0.png", data / "cat" / "new.png")
    _, (note,) = held_out(run, run, data)
    os.remove(picture)
    assert note.startswith("the data had 10 images when the run began and has 11 now")


def test_layout_settings_of_a_run_whose_data_has_moved_are_not_passed_over_in_silence(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "run", symlinks=True)
    config = read_config(other / "config.yaml")
    (other / "config.yaml").write_text(replace(config, layout=LayoutConfig(images=".")).to_yaml())
    moved = shutil.copytree(run.parent / "data", tmp_path / "data")
    notes = twins.evaluate(other, moved, twins.EvalConfig(device="cpu")).notes
    assert any(note.startswith(f"the layout settings of the run are for {config.data}") for note in notes)
