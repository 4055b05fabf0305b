"""Reading what clients send: bodies within limits, the parts of a form, and the headers of images."""

from __future__ import annotations

import asyncio
import io
import json
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from typing import Any, TypeVar

from PIL import Image
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from twins.data.images import ORIENTATION
from twins.errors import number_of
from twins.preprocess import Preprocess
from twins.serve.config import ServeConfig
from twins.serve.errors import RequestError

Result = TypeVar("Result")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats of Pillow that are accepted; others can start programs, or are no pictures."""
BUFFERED = 16
"""Bodies of the largest size that may be in memory at once; parts and messages to workers are copies of them."""
MOST_VALUES = 200_000
"""Lists, objects and texts in the JSON of a request; each takes much more memory than its characters. Numbers do not
count."""


@dataclass(frozen=True)
class Header:
    """What the header of an image says."""

    shape: tuple[int, int]
    """Height and width that the network sees."""
    pixels: int
    """Pixels of the image itself."""


@dataclass(frozen=True)
class Upright:
    """The size of an upright image, as `Preprocess.output_size` reads it."""

    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


class Bodies:
    """Reads the bodies of requests within a server's limits.

    Args:
        config: the limits.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.buffered = 0
        """Bytes of bodies that are in memory."""
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="header")
        self._downloads = ThreadPoolExecutor(4, thread_name_prefix="download")
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="parse")  # one at a time, for memory

    async def header(self, content: bytes, preprocess: Preprocess, max_pixels: int) -> Header:
        """Return what the header of an encoded image says, read by another thread; see `read_header`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, read_header, content, preprocess, max_pixels)

    async def parse(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a function makes of a body, in a thread for all of them."""
        return await asyncio.get_running_loop().run_in_executor(self._parser, function, *arguments)

    async def download(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a function fetches, in a thread that waits for nothing else."""
        return await asyncio.get_running_loop().run_in_executor(self._downloads, function, *arguments)

    async def read(self, request: Request) -> bytes:
        """Return a request's body.

        Raises:
            RequestError: 408 if it comes too slowly, 413 if it is too large, 429 if too many bodies are in memory.
        """
        limit, seconds = self.config.max_bytes, self.config.receive_seconds
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(f"{int(declared):,} bytes", limit)
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                async for chunk in request.stream():
                    body += chunk
                    self.buffered += len(chunk)
                    request.state.buffered = len(body)
                    if len(body) > limit:
                        raise _too_large("more", limit)
                    if self.buffered > BUFFERED * limit:
                        raise RequestError(
                            429, "the server holds too many uploads; try again later", {"Retry-After": "1"}
                        )
        except TimeoutError as error:
            raise RequestError(408, f"the body did not arrive within {seconds:g} seconds; send it faster") from error
        except ClientDisconnect as error:
            raise RequestError(400, "the client left before its body was complete") from error
        return bytes(body)

    def release(self, request: Request) -> None:
        """Count a request's body as no longer in memory."""
        self.buffered -= getattr(request.state, "buffered", 0)

    async def images(self, request: Request) -> list[bytes]:
        """Return the encoded images of a request: its body, or the parts `image` of a form.

        Raises:
            RequestError: 415 for another type, 400 for a form without images, 413 for too many, or as `read`.
        """
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind == b"multipart/form-data":
            body, boundary = await self.read(request), options.get(b"boundary", b"")
            parts = await self.parse(parse_form, body, boundary, self.config.max_images)
            if unknown := [name for name, _ in parts if name != "image"]:
                raise RequestError(400, f"the form has a part {unknown[0]!r:.80}; send the images as parts named image")
            contents = [content for _, content in parts]
        elif kind == b"application/octet-stream" or kind.startswith(b"image/"):
            contents = [await self.read(request)]
        else:
            found = kind.decode("latin-1") or "none"
            raise RequestError(
                415,
                "the content type must be image/..., application/octet-stream or multipart/form-data, found "
                f"{found:.80}",
            )
        return contents


def parse_json(text: bytes) -> Any:
    """Return the JSON of a request.

    Raises:
        ValueError: it is none.
        RequestError: 413 for too many values.
    """
    if max(text.count(b"["), text.count(b"{"), text.count(b'"')) > MOST_VALUES:
        raise RequestError(
            413, f"the JSON may have {MOST_VALUES:,} lists, objects and texts, found more; send tensors flat, or binary"
        )
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is too deep") from error


def parse_form(body: bytes, boundary: bytes, most: int) -> list[tuple[str, bytes]]:
    """Return the name and the content of each part of a form of the type multipart/form-data.

    Args:
        body: the whole body.
        boundary: what separates the parts.
        most: number of parts.

    Raises:
        RequestError: 400 if the form is damaged or empty, 413 if it has more parts.
    """
    parts: list[tuple[str, bytes]] = []
    headers: dict[str, str] = {}
    buffer, name, value = bytearray(), bytearray(), bytearray()

    def begin() -> None:
        if len(parts) == most:
            raise RequestError(413, f"a request may have {number_of(most, 'image')}, found more; send several requests")
        headers.clear()
        buffer.clear()

    def end_header() -> None:
        headers[name.decode("latin-1").lower()] = value.decode("utf-8", "replace")
        name.clear()
        value.clear()

    def end() -> None:
        message = Message()
        message["content-disposition"] = headers.get("content-disposition", "").replace("\n", " ").replace("\r", " ")
        parts.append((str(message.get_param("name", "", header="content-disposition")), bytes(buffer)))

    callbacks: Any = {
        "on_part_begin": begin,
        "on_part_data": lambda data, start, stop: buffer.extend(data[start:stop]),
        "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
        "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
        "on_header_end": end_header,
        "on_part_end": end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RequestError(400, f"the form is damaged ({error}); send it again") from error
    if not parts:
        raise RequestError(400, "the form has no complete part; send the images as parts named image")
    return parts


def read_header(content: bytes, preprocess: Preprocess, max_pixels: int) -> Header:
    """Return what the header of an encoded image says, without decoding it.

    Raises:
        RequestError: 400 if the bytes are no image, 413 if it has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise RequestError(
                        413, f"the image has {width} x {height} pixels, the limit is {max_pixels:,}; send a smaller one"
                    )
                # Pillow decodes a PNG whole to look for an orientation behind its pixels
                has_exif = image.format != "PNG" or "exif" in image.info
                turned = has_exif and image.getexif().get(ORIENTATION, 1) in range(5, 9)
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise RequestError(413, f"the image has too many pixels ({error}); send a smaller one") from error
    except Exception as error:  # whatever Pillow raises for bytes that are no image
        raise RequestError(
            400, f"the {number_of(len(content), 'byte')} sent are no image in a known format, such as JPEG or PNG"
        ) from error
    upright: Any = Upright(height, width) if turned else Upright(width, height)
    return Header(preprocess.output_size(upright), width * height)


def _too_large(found: str, limit: int) -> RequestError:
    return RequestError(413, f"the body may have {limit:,} bytes, found {found}; send a smaller image, or fewer")
