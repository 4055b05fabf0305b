"""The hostile requests of `serving.py`: what no client should send."""

from __future__ import annotations

import asyncio
import io
import json
import random
import zlib
from collections import Counter

from PIL import Image


async def attack(address: str, good: bytes, count: int, seed: int, model: str) -> Counter[str]:
    """Send hostile requests, 64 at a time; return how often each status was the answer."""
    host, port = address.removeprefix("http://").split(":")
    rng, answers, gate = random.Random(seed), Counter[str](), asyncio.Semaphore(64)

    async def one(request: bytes, slow: bool) -> None:
        async with gate:
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
                if slow:
                    for start in range(0, min(len(request), 400), 40):
                        writer.write(request[start : start + 40])
                        await asyncio.sleep(0.2)
                else:
                    writer.write(request)
                    if rng.random() < 0.2:  # leaves at once
                        writer.close()
                        answers["left"] += 1
                        return
                await asyncio.wait_for(writer.drain(), 10)
                line = await asyncio.wait_for(reader.readline(), 20)
                answers[line.decode("latin-1").split(" ")[1] if b" " in line else "closed"] += 1
                writer.close()
            except (OSError, TimeoutError) as error:
                answers[type(error).__name__] += 1

    requests = [_hostile(rng, good, model) for _ in range(count)]
    await asyncio.gather(*(one(request, rng.random() < 0.02) for request in requests))
    return answers


def _hostile(rng: random.Random, good: bytes, model: str) -> bytes:
    """Return one request that no client should send."""

    def request(
        body: bytes, kind: str = "image/jpeg", path: str = "/v1/predict", method: str = "POST", **more: str
    ) -> bytes:
        headers = {"Host": "x", "Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"} | more
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + body

    noise = rng.randbytes(rng.randint(0, 3000))
    cut = good[: rng.randint(1, len(good))]
    flipped = bytearray(good)
    for _ in range(rng.randint(1, 50)):
        flipped[rng.randrange(len(flipped))] = rng.randrange(256)
    bomb = _png(rng.choice([(60_000, 60_000), (2_100, 2_100), (1, 10_000_000)]))
    text = "".join(rng.choice("a%=&?/\u00e9<>\"'{}[];,.0-") for _ in range(rng.randint(1, 200)))
    quoted = "".join(f"%{byte:02x}" for byte in rng.randbytes(30))
    kinds = [
        lambda: request(noise),
        lambda: request(cut),
        lambda: request(bytes(flipped)),
        lambda: request(bomb, "image/png"),
        lambda: request(b"x" * 2_000_001),
        lambda: request(
            good, rng.choice(["text/html", "application/json", "image/", "/", "multipart/form-data", text])
        ),
        lambda: request(_form(rng, good), "multipart/form-data; boundary=b"),
        lambda: request(good, path=f"/v1/predict?{rng.choice(['model', 'score', 'top', 'masks', 'x'])}={quoted}"),
        lambda: request(good, path="/" + quoted),
        lambda: request(good, method=rng.choice(["GET", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "HEAD", "BREW"])),
        lambda: request(good, **{"Content_Length": rng.choice(["-1", "x", "999999999999", "5", ""])}),
        lambda: request(
            good, **{"X_" + "a" * rng.randint(1, 50): text, "Transfer_Encoding": rng.choice(["chunked", "x"])}
        ),
        lambda: request(json.dumps({"inputs": quoted}).encode(), "application/json", "/"),
        lambda: request(_tensor(rng), "application/json", f"/v2/models/{model}/infer"),
        lambda: request(
            noise, "application/octet-stream", f"/v2/models/{model}/infer", Inference_Header_Content_Length=text
        ),
        lambda: request(_task(rng), "application/json", "/predict"),
        lambda: request(
            rng.choice([b"[" * 100_000, b"[]," * 600_000, b'{"a":' * 9999, b'"\\ud800"']), "application/json", "/setup"
        ),
        lambda: noise,
        lambda: b"POST /v1/predict HTTP/1.1\r\n" + b"A: " + b"b" * rng.randint(1, 400_000),
        lambda: request(good)[: rng.randint(1, 400)],
    ]
    return rng.choice(kinds)()


def _png(size: tuple[int, int]) -> bytes:
    """Return a PNG whose header says a size, with hardly any pixels behind it."""
    Image.new("1", (8, 8)).save(buffer := io.BytesIO(), format="PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def _form(rng: random.Random, good: bytes) -> bytes:
    names = [rng.choice(["image", "image", "file", "", "\u00e9" * 300]) for _ in range(rng.choice([0, 1, 2, 40]))]
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + good[:5000] + b"\r\n"
        for name in names
    ]
    return b"".join(parts) + rng.choice([b"--b--\r\n", b"--b", b""])


def _tensor(rng: random.Random) -> bytes:
    entry = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [7] * 3072}
    entry |= rng.choice(
        [{"shape": [1, 32, 32]}, {"data": [None]}, {"datatype": "FP64"}, {"shape": [10**18]}, {"name": 3}, {}]
    )
    sizes = {
        "name": "sizes",
        "datatype": rng.choice(["INT64", "FP32"]),
        "shape": [1, 2],
        "data": [32, rng.choice([32, 1e9])],
    }
    values = {"inputs": rng.choice([[entry], [entry, sizes], [entry, entry], entry, [], None])}
    name = {"name": rng.choice(["probabilities", "x", [1], None])}
    values |= rng.choice([{}, {"outputs": [name] * rng.choice([1, 9999])}, {"outputs": name}, {"parameters": [1]}])
    return json.dumps(values).encode()


def _task(rng: random.Random) -> bytes:
    address = rng.choice(["http://127.0.0.1:1/", "file:///etc/passwd", "data:image/png;base64,????", 3, "data:,"])
    interface = rng.choice(
        ["<View/>", "<", '<View><Image name="i" value="$i"/><Choices name="c" toName="i"/></View>', "\ud800", 3]
    )
    return json.dumps({"tasks": [{"data": {"i": address}}], "label_config": interface}).encode()
