"""Forms and headers of images, as clients send them and as they should not."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from twins.preprocess import Preprocess
from twins.serve.bodies import FORMATS, Header, parse_form, read_header
from twins.serve.errors import RequestError

KEPT = Preprocess(size=64, fit="keep")


def encoded(width, height, kind="PNG", **settings):
    Image.new("RGB", (width, height), (9, 99, 199)).save(buffer := io.BytesIO(), format=kind, **settings)
    return buffer.getvalue()


def form(*parts):
    request = httpx.Request("POST", "http://localhost", files=parts)
    return request.read(), request.headers["content-type"].partition("boundary=")[2].encode()


def test_a_form_gives_its_parts_in_order():
    parts = parse_form(*form(("image", ("a b.png", b"first")), ("image", ("ü.jpg", b"\r\n--second\r\n"))), 2)
    assert parts == [("image", b"first"), ("image", b"\r\n--second\r\n")]


@pytest.mark.parametrize(
    ("body", "boundary", "status"),
    [
        (b"", b"x", 400),
        (b"no form", b"x", 400),
        (b"--x\r\n\r\n", b"", 400),
        (b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\ncut", b"x", 400),
        (b"\xff" * 1000, b"x" * 300, 400),
        (form(*[("image", ("a", b"1"))] * 3)[0], b"other", 400),
    ],
)
def test_a_damaged_form_is_one_sentence(body, boundary, status):
    with pytest.raises(RequestError) as error:
        parse_form(body, boundary, 2)
    assert error.value.status == status


def test_too_many_parts_are_refused():
    with pytest.raises(RequestError, match="2 images") as error:
        parse_form(*form(*[("image", ("a", b"1"))] * 3), 2)
    assert error.value.status == 413


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("preprocess", [KEPT, Preprocess(size=96), Preprocess(size=96, fit="squash")])
def test_the_header_gives_the_size_that_the_network_sees(preprocess, turned):
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    content = encoded(200, 100, "JPEG", exif=exif)
    expected = preprocess.pixels(Image.new("RGB", (100, 200) if turned else (200, 100))).shape[1:]
    assert read_header(content, preprocess, 20_000) == Header(tuple(expected), 20_000)


def test_pixels_are_counted_before_anything_is_decoded():
    with pytest.raises(RequestError, match="200 x 100 pixels") as error:
        read_header(encoded(200, 100)[:60], KEPT, 19_999)  # the header alone
    assert error.value.status == 413


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", np.random.default_rng(0).bytes(999)],
)
def test_bytes_that_are_no_image_are_refused(content):
    with pytest.raises(RequestError, match="no image in a known format") as error:
        read_header(content, KEPT, 10**6)
    assert error.value.status == 400


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_can_be_read(kind):
    Image.new("RGB", (64, 48)).save(content := io.BytesIO(), format=kind)
    assert read_header(content.getvalue(), Preprocess(), 10_000).pixels == 64 * 48
