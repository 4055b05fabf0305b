"""`POST /v1/attention`, the examples of a run and what `/v1/models` says of them, through the server's application."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import twins
from twins.report.examples import write_examples
from twins.run_folder import LARGEST_EXAMPLE
from twins.serve.app import create_app
from twins.serve.batching import Item
from twins.serve.config import ServeConfig
from twins.serve.gate import Gate
from twins.serve.keys import Keys
from twins.serve.local import LocalDispatcher
from twins.serve.metrics import Metrics
from twins.serve.queues import Queues
from twins.serve.routes import ROUTERS
from twins.serve.service import Service
from twins.serve.sources import parse_models
from twins.token_attention import attention_at

RUN, DETECTOR = "my rün", "boxes"
IMAGE = {"content-type": "application/octet-stream"}


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, **settings):
    image.save(buffer := io.BytesIO(), format="PNG", **settings)
    return buffer.getvalue()


class Images(list):
    """A set of images."""

    def load(self, index):
        return self[index]


class Client:
    """Asks the application, with the networks in this process."""

    def __init__(self, models: list[str], folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        config = ServeConfig(device="cpu", threads=1)
        self.queues = Queues(config, parse_models(models))
        self.dispatcher = LocalDispatcher(config, self.queues)
        self.loop.run_until_complete(self.dispatcher.start())
        self.app = create_app(Service(config, self.queues, lambda: self.dispatcher.ready), Metrics(), *ROUTERS)
        (folder / "keys").write_text("secret\n")
        self.closed = Gate(self.app, Keys(folder / "keys"), Metrics())

    def request(self, method: str, path: str, *, app=None, **settings) -> httpx.Response:
        async def ask():
            transport = httpx.ASGITransport(app or self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **settings)

        return self.loop.run_until_complete(ask())

    def attention(self, content: bytes, **fields) -> httpx.Response:
        return self.request("POST", "/v1/attention", content=content, params=fields, headers=IMAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder of a classifier with examples, and a file of a detector that finds objects."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "run").mkdir()
    torch.manual_seed(0)
    classifier = twins.create_model("twins_svt_nano", names=("cat", "dog", "rat"))
    detector = twins.create_model("twins_svt_nano", task="detection", num_classes=3)
    for name, values in detector.named_parameters():
        if "cls" in name and name.endswith("weight"):
            values.data *= 30
    for model, path in ((classifier, "run/best.safetensors"), (detector, "boxes.safetensors")):
        model.info = replace(model.info, preprocess=replace(model.info.preprocess, size=64, crop=1.0))
        twins.save_weights(model, folder / path)
    write_examples(folder / "run", Images([noise(40, 40), noise(300, 40)]))
    return folder


@pytest.fixture(scope="module")
def client(folder):
    client = Client([f"{RUN}={folder / 'run'}", str(folder / "boxes.safetensors")], folder)
    yield client
    for task in asyncio.all_tasks(client.loop):
        task.cancel()
    client.loop.run_until_complete(asyncio.sleep(0))
    client.loop.close()


def test_the_answer_is_what_python_gives_with_the_models_name_and_the_time(client, folder):
    image = noise(100, 50)
    found = client.attention(encoded(image), model=RUN).raise_for_status().json()
    assert list(found) == ["model", "size", "seen", "point", "target", "stages", "milliseconds"]
    assert found.pop("model") == RUN
    assert found.pop("milliseconds") > 0
    predictor = twins.load(folder / "run", device="cpu")
    predictor.model.requires_grad_(False)  # as served; with gradients other forms compute the same
    assert found == attention_at(predictor, image).to_dict()
    assert found["target"]["name"] in ("cat", "dog", "rat")
    asked = (
        client.attention(encoded(image), model=RUN, x=30.5, y=20, stage=2, block=1, head=2).raise_for_status().json()
    )
    (stage,) = asked["stages"]
    assert asked["point"] == {"x": 30.5, "y": 20, "chosen_by": "request"}
    assert (asked["target"], stage["evidence"], stage["keys"], stage["window"]["block"]) == (None, None, None, 1)


def test_a_form_with_one_image_is_answered_too(client):
    content = encoded(noise(64, 64))
    form = {"image": ("a.png", content)}
    found = client.request("POST", "/v1/attention", params={"model": RUN, "x": 3, "y": 4}, files=form).json()
    assert found["stages"] == client.attention(content, model=RUN, x=3, y=4).json()["stages"]


def test_an_image_that_is_turned_is_answered_upright(client):
    upright, exif = noise(50, 100), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    found, expected = (
        client.attention(content, model=RUN, x=49, y=60).raise_for_status().json()
        for content in (encoded(turned, exif=exif), encoded(upright))
    )
    assert found["size"] == [100, 50]
    assert found["stages"] == expected["stages"]


def test_the_surest_shown_object_is_explained_whatever_was_asked_before(client):
    content = encoded(noise(120, 90))
    client.request("POST", "/v1/predict", params={"model": DETECTOR, "score": 0.99}, content=content, headers=IMAGE)
    predict = {"model": DETECTOR, "top": 1}
    answer = client.request("POST", "/v1/predict", params=predict, content=content, headers=IMAGE).json()
    (shown,) = answer["predictions"]
    x0, y0, x1, y1 = shown["boxes"][0]
    found = client.attention(content, model=DETECTOR).raise_for_status().json()
    assert found["point"]["chosen_by"] == "object"
    assert (found["point"]["x"], found["point"]["y"]) == pytest.approx(((x0 + x1) / 2, (y0 + y1) / 2), abs=0.01)
    assert found["target"]["label"] == shown["labels"][0]
    assert found["target"]["score"] == pytest.approx(shown["scores"][0], abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"x": 30}, 400, "both x and y"),
        ({"y": 30}, 400, "both x and y"),
        ({"block": 1}, 400, "give the stage too"),
        ({"head": 1}, 400, "give the stage too"),
        ({"hed": 1}, 400, "did you mean head"),
        ({"score": 0.5}, 400, "no field"),
        ({"x": "left", "y": 1}, 400, "x: "),
        ({"x": "nan", "y": 1}, 400, "x: "),
        ({"stage": 0}, 400, "stage: "),
        ({"stage": 5}, 422, "4 stages"),
        ({"stage": 1, "block": 3}, 422, "2 blocks"),
        ({"stage": 1, "head": 2}, 422, "1 head, found head 2"),
        ({"x": 100, "y": 1}, 422, "100 x 50 pixels"),
        ({"x": -1, "y": 1}, 422, "100 x 50 pixels"),
        ({"x": 24, "y": 1}, 422, "sees the image from x 25 to 75"),
        ({"model": "box"}, 404, "no model"),
        ({"model": None}, 400, "several models"),
    ],
)
def test_a_wrong_request_has_a_status_and_a_sentence(client, fields, status, words):
    asked = {name: value for name, value in ({"model": RUN} | fields).items() if value is not None}
    response = client.attention(encoded(noise(100, 50)), **asked)
    assert (response.status_code, list(response.json())) == (status, ["error"]), response.text
    assert words in response.json()["error"]


def test_other_bodies_are_refused_as_those_of_predictions_are(client):
    content = encoded(noise(64, 64))
    two = [("image", ("a.png", content)), ("image", ("b.png", content))]
    post = {"method": "POST", "path": f"/v1/attention?model={RUN}"}
    for response, status, words in (
        (client.request(**post, files=two), 400, "one image, found 2"),
        (client.request(**post, files={"picture": content}), 400, "named image"),
        (client.request(**post, json={}), 415, "content type"),
        (client.attention(b"no image", model=RUN), 400, "no image"),
        (client.request("GET", "/v1/attention"), 405, "GET"),
        (client.request(**post, app=client.closed, content=content, headers=IMAGE), 401, "key"),
    ):
        assert response.status_code == status, response.text
        assert words in response.json()["error"]


def test_an_exported_file_holds_no_maps(client, monkeypatch):
    served = client.queues.models[RUN]
    monkeypatch.setattr(served, "description", replace(served.description, runtime="onnx"))
    response = client.attention(encoded(noise(64, 64)), model=RUN)
    assert response.status_code == 422
    assert "serve the run or checkpoint" in response.json()["error"]


def test_an_image_whose_attention_is_asked_for_shares_no_batch(client, monkeypatch):
    jobs, submit = [], client.queues.submit
    monkeypatch.setattr(client.queues, "submit", lambda served, some: jobs.extend(some) or submit(served, some))
    client.attention(encoded(noise(64, 64)), model=RUN, x=1, y=1)
    assert [Item(job, "", None).alone for job in jobs] == [True]


def test_models_list_the_examples_of_their_run_and_the_lowest_score(client):
    run, boxes = client.request("GET", "/v1/models").json()["models"]
    assert run["examples"] == ["/examples/my%20r%C3%BCn/01.png", "/examples/my%20r%C3%BCn/02.jpg"]
    assert boxes["examples"] == []
    assert run["lowest_score"] == boxes["lowest_score"] == 0.0
    kinds = []
    for path in run["examples"]:
        response = client.request("GET", path).raise_for_status()
        kinds.append(response.headers["content-type"])
        assert client.attention(response.content, model=RUN).status_code == 200
    assert kinds == ["image/png", "image/jpeg"]
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(client.request("GET", run["examples"][0]).content))), np.asarray(noise(40, 40))
    )
    assert client.request("GET", run["examples"][0], app=client.closed).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/examples/my%20r%C3%BCn/03.png",
        "/examples/my%20r%C3%BCn/best.safetensors",
        "/examples/my%20r%C3%BCn/../best.safetensors",
        "/examples/my%20r%C3%BCn/..%2fbest.safetensors",
        "/examples/my%20r%C3%BCn/%2e%2e%2fbest.safetensors",
        "/examples/my%20r%C3%BCn/notes.png",
        "/examples/my%20r%C3%BCn/04.png",
        "/examples/my%20r%C3%BCn/05.png",
        "/examples/boxes/01.png",
        "/examples/other/01.png",
        "/examples/%2e%2e/01.png",
    ],
)
def test_nothing_else_of_a_run_is_served(client, folder, path):
    (folder / "run" / "examples" / "notes.png").write_bytes(b"private")
    link = folder / "run" / "examples" / "04.png"
    if not link.is_symlink():
        link.symlink_to(folder / "run" / "best.safetensors")
        with (folder / "run" / "examples" / "05.png").open("wb") as file:
            file.truncate(LARGEST_EXAMPLE + 1)
    response = client.request("GET", path)
    assert (response.status_code, list(response.json())) == (404, ["error"]), path
