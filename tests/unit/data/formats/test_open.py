"""Opening a folder in a data set instead of the data set: the sentence names the folder to give."""

from __future__ import annotations

import json
import re

import pytest

from twins.data.config import DataConfig
from twins.data.formats.open import open_label_maps, open_objects
from twins.errors import DataError


@pytest.fixture
def masks(tmp_path, save_image, save_mask):
    """Images and masks by parts."""
    for part in ("train", "val"):
        save_image(tmp_path / "set" / "images" / part / "a.png", (8, 6))
        save_mask(tmp_path / "set" / "masks" / part / "a.png", [[0, 1]] * 6)
    return tmp_path / "set"


@pytest.mark.parametrize("inner", ["images", "masks", "images/train", "masks/val"])
def test_a_folder_in_a_set_of_masks_leads_to_the_set(masks, inner):
    with pytest.raises(DataError, match=re.escape(f"a part of the data in {masks}; give that folder")):
        open_label_maps(DataConfig(data=str(masks / inner)))


def test_a_relative_folder_leads_to_the_set_too(masks, monkeypatch):
    monkeypatch.chdir(masks / "images")
    with pytest.raises(DataError, match=re.escape(f"a part of the data in {masks}; give that folder")):
        open_label_maps(DataConfig(data="train"))


def test_a_folder_of_images_beside_cocos_annotations_leads_to_the_set(tmp_path, save_image):
    save_image(tmp_path / "train2017" / "a.png", (8, 6))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match=re.escape(f"a part of the data in {tmp_path}; give that folder")):
        open_objects(DataConfig(data=str(tmp_path / "train2017")), masks=False)


def test_a_folder_of_images_alone_gets_the_layout_to_make(tmp_path, save_image):
    save_image(tmp_path / "pictures" / "a.png", (8, 6))
    with pytest.raises(DataError, match=re.escape(f"put images in {tmp_path / 'pictures' / 'images'} and masks")):
        open_label_maps(DataConfig(data=str(tmp_path / "pictures")))
