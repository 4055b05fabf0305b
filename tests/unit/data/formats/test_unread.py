"""Formats that are not read get a sentence that names them; files of other formats are not taken for a tool's."""

from __future__ import annotations

import json

import pytest

from twins.data.config import DataConfig
from twins.data.formats.open import open_class_ids
from twins.data.formats.shape_formats import SHAPE_FORMATS
from twins.data.formats.source import Source
from twins.data.formats.unread import unread_format

KITTI = "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"
DOTA = "imagesource:GoogleEarth\ngsd:0.1\n1.0 2.0 3.0 2.0 3.0 4.0 1.0 4.0 plane 0\n"
FILES = [
    ("train.tfrecord-00000-of-00010", b"\x00\x01", "TFRecord", "FiftyOne"),
    ("valid/a.record", b"\x00", "TFRecord", "FiftyOne"),
    ("gt/img1.mat", b"MATLAB 5.0", "MATLAB", "scipy"),
    ("ds0/ann/a.jpg.json", '{"description": "", "objects": [{"classTitle": "cat"}]}', "Supervisely", "Export to COCO"),
    ("meta.json", '{"classes": [{"title": "cat", "shape": "bitmap"}], "tags": []}', "Supervisely", "COCO"),
    (
        "_annotations.createml.json",
        '[{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1, "y": 2}}]}]',
        "CreateML",
        "Roboflow",
    ),
    ("label_2/000001.txt", KITTI, "KITTI", "datum"),
    ("labelTxt/P0001.txt", DOTA, "DOTA", "convert_dota_to_yolo_obb"),
    ("labels/P0001.txt", DOTA.partition("gsd:0.1\n")[2], "DOTA", "ultralytics"),
    (
        "wider_face_split/wider_face_train_bbx_gt.txt",
        "0--Parade/0.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n",
        "WIDER FACE",
        "datum",
    ),
    (
        "annotations/default.json",
        '{"info": {}, "categories": {"label": {"labels": []}}, "items": []}',
        "Datumaro",
        "datum",
    ),
    ("data/train-00000-of-00001.parquet", b"PAR1", "Parquet", "datasets"),
    ("train/data-00000.arrow", b"ARROW1", "Arrow", "COCO"),
    ("db/data.mdb", b"\x00", "LMDB", "lmdb"),
    ("export.ndjson", '{"data_row": {"id": "x"}, "media_attributes": {}}\n', "Labelbox", "FiftyOne"),
    (
        "a.json",
        '{"version": "2.0", "schema_ref": "https://darwin", "item": {"name": "a", "slots": []}}',
        "Darwin",
        "darwin",
    ),
    ("MOT17-02/gt/gt.txt", "1,1,912,484,97,109,0,7,1\n", "MOT", "datum"),
    ("sa_1.json", '{"image": {"image_id": 1}, "annotations": [{"predicted_iou": 0.9}]}', "SA-1B", "COCO"),
    ("masks/a.npy", b"\x93NUMPY", "NumPy", "PNG"),
    ("scan.nii.gz", b"\x1f\x8b", "NIfTI", "PNG"),
    ("series/1.dcm", b"DICM", "DICOM", "PNG"),
    ("clips/a.mp4", b"\x00", "videos", "ffmpeg"),
    (
        "det_train.json",
        '[{"name": "a.jpg", "labels": [{"category": "car", "box2d": {"x1": 1}}]}]',
        "BDD100K",
        "to_coco",
    ),
    ("train.zip", b"PK", "archives", "unpack"),
    (
        "via.csv",
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes\n",
        "VIA's CSV",
        "JSON",
    ),
    (
        "a.xml",
        "<annotation><object><name>cat</name><polygon><pt/></polygon></object></annotation>",
        "LabelMe XML",
        "export",
    ),
]


def write(root, name, content):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(("name", "content", "kind", "advice"), FILES, ids=[row[0] for row in FILES])
def test_a_format_that_is_not_read_is_named_with_a_file_and_a_way(
    tmp_path, reading, refused, name, content, kind, advice
):
    write(tmp_path, name, content)
    with refused(f"holds .*{kind}.* first\\), which is not read; .*{advice}"):
        reading.open(tmp_path)
    with refused(kind):
        open_class_ids(DataConfig(data=str(tmp_path)))


@pytest.mark.parametrize("text", [KITTI, DOTA])
def test_label_files_that_could_be_yolos_are_named(tmp_path, reading, refused, save_image, text):
    save_image(tmp_path / "images" / "a.png")
    write(tmp_path, "labels/a.txt", text)
    with refused(r"labels/a\.txt is (KITTI|DOTA)'s: .*; convert the files"):
        reading.open(tmp_path)


def test_old_labelme_xml_beside_images_is_named(tmp_path, reading, refused, save_image):
    save_image(tmp_path / "images" / "a.png")
    write(
        tmp_path,
        "annotations/a.xml",
        "<annotation><object><name>cat</name><polygon><pt/></polygon></object></annotation>",
    )
    with refused("old LabelMe XML"):
        reading.open(tmp_path)


def test_the_sentence_for_label_maps_is_the_same(tmp_path, reading, refused):
    write(tmp_path, "masks/a.npy", b"x")
    with refused("holds NumPy arrays .masks/a.npy first., which is not read; save masks as PNG"):
        reading.open(tmp_path, "maps")


def test_an_unknown_folder_keeps_its_sentence(tmp_path, reading, refused, save_image):
    save_image(tmp_path / "a.jpg")
    write(tmp_path, "notes.txt", "1 0.5 0.5 0.1 0.1\n")
    assert unread_format(Source(DataConfig(data=str(tmp_path)), "a folder")) is None
    write(tmp_path, "notes.txt", "hello")
    with refused("in a known layout"):
        reading.open(tmp_path)


OTHERS = {
    "instances.json": json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}),
    "info_first.json": json.dumps({"info": {"description": "shapes"}, "licenses": [], "images": [], "annotations": []}),
    "results.json": json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]),
    "package.json": '{"name": "x", "files": [], "version": "1.0"}',
    "tsconfig.json": '{"compilerOptions": {}}',
    "lottie.json": '{"v": "5.5", "layers": [{"ty": 4, "shapes": [{"ty": "gr"}]}]}',
    "map.geojson": '{"type": "FeatureCollection", "features": []}',
    "voc.xml": "<annotation><folder>x</folder><filename>a.jpg</filename><object><name>cat</name></object></annotation>",
    "pom.xml": "<project><version>1</version></project>",
    "README.roboflow.txt": "This dataset was exported via roboflow.com",
    "labels.csv": "id,label\na.jpg,cat\n",
    "scores.csv": "image,score,width,height\na.jpg,1,2,3\n",
    "data.yaml": "names: [cat]\n",
}


def test_files_of_other_formats_are_not_taken_for_a_tools(tmp_path):
    for name, content in OTHERS.items():
        write(tmp_path, name, content)
    source = Source(DataConfig(data=str(tmp_path)), "a folder")
    assert {name: find(source) for name, (find, _) in SHAPE_FORMATS.items() if find(source)} == {}


def test_annotations_of_two_tools_are_refused_and_the_setting_decides(tmp_path, reading, refused, save_image):
    save_image(tmp_path / "a.jpg", (40, 30))
    write(tmp_path, "boxes.csv", "a.jpg,4,6,24,18,cat\n")
    region = {"shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}, "region_attributes": {}}
    write(tmp_path, "via.json", json.dumps({"a": {"filename": "a.jpg", "size": 1, "regions": [region]}}))
    with refused(r"two formats, VIA \(via.json\) and CSV \(boxes.csv\); give the file .* as `layout.annotations`"):
        reading.open(tmp_path)
    assert reading.open(tmp_path, annotations="via.json").names == ("object",)
    assert reading.open(tmp_path, annotations="boxes.csv").names == ("cat",)
