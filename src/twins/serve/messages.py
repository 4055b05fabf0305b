"""What the server and its workers send each other, and the connection that they send it over. Nothing imports torch."""

from __future__ import annotations

import pickle
import socket
import struct
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twins.weights.info import ModelInfo

Form = Literal["json", "tensors", "hugging_face", "label_studio", "attention"]
"""Form of an answer: `Prediction.to_dict` as JSON, the outputs of an exported file, another program's schema, or what
the network looks at instead of a prediction."""
Masks = Literal["rle", "polygon", "none"]
LENGTH = struct.Struct("<Q")
"""Each message is its length in bytes and a pickle; both ends are processes of one server."""


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """Whose attention a request asks for; see `twins.token_attention.attention_at`."""

    point: tuple[float, float] | None = None
    """x and y in pixels of the image; `None`: where the network decides."""
    stage: int | None = None
    """Number of a stage, from 1; `None`: all."""
    block: int | None = None
    """Number of a block in the stage, from 1; `None`: the last ones."""
    head: int | None = None
    """Number of a head, from 1; `None`: the average over heads."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a request asks of its answer."""

    form: Form = "json"
    score: float | None = None
    """Score that objects and classes must exceed; `None`: 0.3 for objects, none for classes."""
    top: int | None = None
    """Most classes or objects, highest score first; `None`: all."""
    masks: Masks | None = None
    """Form of masks; `None`: as `Prediction.to_dict`."""
    attention: AttentionOptions = field(default_factory=AttentionOptions)
    """With the form `attention`: whose."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """An image to predict."""

    content: bytes | NDArray[np.uint8]
    """The bytes of an image file, or pixels `(H, W, C)` at the size that the network sees."""
    shape: tuple[int, int]
    """Height and width that the network sees, as the header of the image says."""
    alone: bool = False
    """Whether the image gets a batch of its own."""
    size: tuple[int, int] | None = None
    """With pixels: the true height and width inside them; `None` if the image fills them."""
    options: Options


@dataclass(frozen=True)
class Failure:
    """Why a job has no answer."""

    status: int
    """HTTP's status code."""
    sentence: str


Answer = bytes | dict[str, NDArray[Any]] | Failure
"""JSON, or the outputs `(1, ...)` of an exported file by name."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the server needs to know of a model without loading it."""

    info: ModelInfo
    masks: bool
    """Whether a prediction holds a mask of the image's size for each object, which takes much memory."""
    runtime: str
    """`pytorch`, `onnx`, `openvino` or `torch` (a `.pt2`)."""
    precision: str
    pads: bool
    """Whether unequal images can share a batch, padded, without an effect on their predictions."""
    padding: float
    """Padding that pays, as a share of the images' pixels."""
    lowest_score: float
    """Lowest score that a request may ask for: an exported file keeps no objects below its own."""
    ranked: bool
    """Whether a prediction is a list of classes by their scores."""
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    """Name, data type and shape of each output as a tensor; sides that depend on the input are -1."""
    batch: int | None = None
    """Images in a batch of tensors; `None`: any number."""
    height: int | None = None
    """Height of tensors in pixels; `None`: any."""
    width: int | None = None
    """Width of tensors in pixels; `None`: any."""


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of a worker process."""

    device: str
    threads: int


@dataclass(frozen=True)
class Load:
    """To a worker: load a model and run it once."""

    key: str
    """Name and version."""
    path: str


@dataclass(frozen=True)
class Drop:
    """To a worker: forget a model."""

    key: str


@dataclass(frozen=True)
class Run:
    """To a worker: predict a batch."""

    number: int
    key: str
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class Loaded:
    """From a worker: a model has answered its first image, or cannot be loaded."""

    key: str
    description: Description | None
    error: str = ""


@dataclass(frozen=True)
class Done:
    """From a worker: the answers of a batch, in its order."""

    number: int
    answers: tuple[Answer, ...]
    seconds: float
    """Time of the network and its decoding."""


def pack(message: Any) -> bytes:
    """Return a message as bytes, with its length in front."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def unpack(body: bytes | bytearray) -> Any:
    """Return the message that `pack` made bytes of, without the length in front."""
    return pickle.loads(body)


def send(connection: socket.socket, message: Any) -> None:
    """Send a message; the worker's side, which may block."""
    connection.sendall(pack(message))


def receive(connection: socket.socket) -> Any:
    """Return the next message, or `None` if the other end is closed; the worker's side, which may block."""
    head = _read(connection, LENGTH.size)
    body = None if head is None else _read(connection, LENGTH.unpack(head)[0])
    return None if body is None else unpack(body)


def _read(connection: socket.socket, count: int) -> bytearray | None:
    content = bytearray(count)
    view = memoryview(content)
    while view:
        try:
            received = connection.recv_into(view)
        except OSError:
            received = 0
        if not received:
            return None
        view = view[received:]
    return content
