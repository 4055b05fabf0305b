"""Every image opens as upright 8-bit RGB, or with an error that names it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from twins.data.images import NO_DATA, count_unread, image_endings, is_image_file, open_image
from twins.errors import DataError, InputError, NotFoundError


def test_exif_rotation_is_applied(tmp_path):
    image, exif = Image.new("RGB", (40, 20), "red"), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (20, 40)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(open_image(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 100, 255]


def test_transparent_pixels_become_white(tmp_path):
    Image.new("RGBA", (3, 3), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    palette = Image.new("P", (3, 3))
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert np.asarray(open_image(tmp_path / "clear.png")).min() == 255
    assert np.asarray(open_image(tmp_path / "palette.png")).min() == 255


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1", "YCbCr", "F", "I"])
def test_other_modes_become_rgb(mode):
    image = open_image(Image.new(mode, (5, 4)))
    assert (image.mode, image.size) == ("RGB", (5, 4))


def test_damaged_files_are_named(tmp_path):
    Image.effect_noise((100, 100), 50).convert("RGB").save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.jpg", "empty.jpg", "text.jpg"):
        with pytest.raises(DataError, match=name):
            open_image(tmp_path / name)
    with pytest.raises(NotFoundError, match=r"gone\.jpg"):
        open_image(tmp_path / "gone.jpg")


def test_a_decompression_bomb_is_refused(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match=r"bomb\.png would unpack to more pixels"):
        open_image(tmp_path / "bomb.png")


def test_arrays_and_tensors_of_one_image_agree():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    expected = np.asarray(open_image(Image.fromarray(pixels)))
    for source in (pixels, pixels / 255.0, torch.from_numpy(pixels).permute(2, 0, 1)):
        assert (np.asarray(open_image(source)) == expected).all()


@pytest.mark.parametrize("wrong", [np.zeros((2, 2, 5), np.uint8), np.full((2, 2), 2.0), np.zeros((2, 2), int), 5])
def test_other_objects_than_images_are_refused(wrong):
    with pytest.raises(InputError, match=r"found|0\.\.1"):
        open_image(wrong)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -9999, -3.4e38, 3.4e38, 1e20, 1.02, 1.5])
def test_a_float_image_keeps_its_scale_whatever_its_odd_pixels(tmp_path, odd):
    pixels = np.random.default_rng(0).uniform(0.5, 0.9, (64, 64)).astype(np.float32)
    plain = np.asarray(open_image(Image.fromarray(pixels)))[1:]
    pixels[0, :5] = odd
    Image.fromarray(pixels).save(tmp_path / "odd.tif")
    image = open_image(tmp_path / "odd.tif")
    assert (np.asarray(image)[1:] == plain).all()
    assert np.asarray(image)[0, :5].tolist() == [[255 if 1 < odd < 2 else 0] * 3] * 5
    assert image.info.get(NO_DATA, 0) == (0 if abs(odd) < 10000 else 5)


@pytest.mark.parametrize(("top", "scale"), [(255.0, 1.0), (65535.0, 1 / 257), (2.0, 1.0)])
def test_floats_of_whole_numbers_are_scaled_by_their_range(top, scale):
    pixels = np.array([[0, 1, top]], dtype=np.float32)
    assert np.asarray(open_image(Image.fromarray(pixels)))[0, :, 0].tolist() == np.round(pixels * scale)[0].tolist()


@pytest.mark.parametrize("ending", [".png", ".tga", ".avif", ".jp2", ".pcx", ".mpo"])
def test_files_that_pillow_reads_are_images(tmp_path, ending):
    if ending not in image_endings():
        pytest.skip(f"the installed Pillow reads no {ending}")
    assert is_image_file(tmp_path / f"a{ending}")
    assert is_image_file(tmp_path / f"a{ending.upper()}")
    Image.new("RGB", (16, 16), (200, 10, 10)).save(tmp_path / f"a{ending}")
    assert open_image(tmp_path / f"a{ending}").size == (16, 16)


@pytest.mark.parametrize("name", ["a.pdf", "a.h5", "a.mpg", "cloud.pcd", "a.txt", "a", ".a.png", "a.heic"])
def test_files_of_other_kinds_are_no_images(tmp_path, name):
    assert not is_image_file(tmp_path / name)


def test_pictures_that_pillow_cannot_read_are_counted_by_ending(tmp_path):
    for name in ("a.heic", "sub/b.HEIC", "c.NEF", ".d.heic", "e.png", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert count_unread(tmp_path) == {".heic": 2, ".nef": 1}


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", ""], ids=ascii)
def test_a_name_that_no_file_can_have_is_named(tmp_path, name):
    with pytest.raises((NotFoundError, DataError), match=r"there is no image|is a folder"):
        open_image(tmp_path / name)
