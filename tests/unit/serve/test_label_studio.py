"""Requests that a Label Studio has sent, against the server's application; `tests/golden/label_studio` holds them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.server
import json
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

import twins
from twins.data.formats.label_studio_rle import decode_brush
from twins.serve.app import create_app
from twins.serve.config import ServeConfig
from twins.serve.downloads import TOKEN
from twins.serve.gate import Gate
from twins.serve.keys import Keys
from twins.serve.local import LocalDispatcher
from twins.serve.metrics import Metrics
from twins.serve.queues import Queues
from twins.serve.routes import ROUTERS
from twins.serve.service import Service
from twins.serve.sources import parse_models

RECORDED = Path(__file__).parents[2] / "golden" / "label_studio"
HOST = "http://label-studio.invalid"
"""Address of Label Studio in the recorded requests."""
NETWORKS = {
    "classification": {"names": tuple("abcde")},
    "detection": {"num_classes": 3},
    "semantic": {"num_classes": 4},
}
MODELS = {"choices": "classification", "rectanglelabels": "detection", "brushlabels": "semantic"}
LEGACY, PERSONAL, ACCESS = "legacy-token", "personal.refresh.token", "personal.access.token"


class LabelStudio(http.server.BaseHTTPRequestHandler):
    """Holds the recorded uploads, for whoever has a token, as Label Studio does."""

    def do_GET(self):
        allowed = self.headers["Authorization"] in (f"Token {LEGACY}", f"Bearer {ACCESS}")
        content = self.server.uploads.get(self.path)
        self.answer(401 if not allowed else 404 if content is None else 200, content or b"")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = (self.path, asked) == ("/api/token/refresh/", {"refresh": PERSONAL})
        self.answer(200 if known else 401, json.dumps({"access": ACCESS}).encode())

    def answer(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def recorded(name):
    return json.loads((RECORDED / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def label_studio():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), LabelStudio) as server:
        server.uploads = {
            path: base64.b64decode(content)
            for file in RECORDED.iterdir()
            for path, content in recorded(file.stem)["uploads"].items()
        }
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Client:
    """Asks the application, with the networks in this process."""

    def __init__(self, models, label_studio, keys=None):
        self.loop = asyncio.new_event_loop()
        self.host = f"http://127.0.0.1:{label_studio.server_port}"
        config = ServeConfig(device="cpu", threads=1, label_studio=self.host)
        self.queues = Queues(config, parse_models(models))
        self.dispatcher = LocalDispatcher(config, self.queues)
        self.loop.run_until_complete(self.dispatcher.start())
        app = create_app(Service(config, self.queues, lambda: self.dispatcher.ready), Metrics(), *ROUTERS)
        self.app = Gate(app, keys, Metrics())

    def send(self, request, *, path=None, headers=None) -> httpx.Response:
        """Send a request as it was recorded, with the address of the tests' Label Studio."""
        body = request["body"] and json.dumps(request["body"]).replace(HOST, self.host)

        async def ask():
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(
                    request["method"],
                    path or request["path"],
                    content=body,
                    headers=request["headers"] if headers is None else headers,
                )

        return self.loop.run_until_complete(ask())

    def close(self):
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of random weights for each kind of tag."""
    folder = tmp_path_factory.mktemp("served")
    for task, settings in NETWORKS.items():
        torch.manual_seed(0)
        model = twins.create_model("twins_svt_nano", task=task, **settings)
        for name, values in model.named_parameters():  # scores so far from each other that objects are found
            if "cls" in name and name.endswith("weight"):
                values.data *= 30
        model.info = replace(model.info, preprocess=replace(model.info.preprocess, size=64))
        twins.save_weights(model, folder / f"{task}.safetensors")
    return {task: str(folder / f"{task}.safetensors") for task in NETWORKS}


@pytest.fixture(scope="module")
def client(files, label_studio):
    client = Client(files.values(), label_studio)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv(TOKEN, LEGACY)


def version_of(file, name):
    digest = hashlib.sha256(hashlib.sha256(Path(file).read_bytes()).digest()).hexdigest()
    return f"{name}@{digest[:8]}"


def request_of(name, step, path):
    (found,) = [one for one in recorded(name)["requests"] if one["step"] == step and one["path"].endswith(path)]
    return found


def image_of(task, uploads):
    address = task["data"]["photo"].removeprefix(HOST)
    encoded = address.partition(",")[2] if address.startswith("data:") else uploads[address]
    return base64.b64decode(encoded)


def check_region(region, item, size):
    """Check a region of an answer against an item of the prediction that Python gives."""
    kind, value, (height, width) = region["type"], region["value"], size
    assert (region["from_name"], region["to_name"]) == ("labels", "picture")
    assert value[kind] == [item.name]
    assert region["score"] == (None if item.score is None else pytest.approx(item.score, abs=1e-5))
    if kind == "choices":
        return
    assert (region["original_width"], region["original_height"], region["image_rotation"]) == (width, height, 0)
    if kind == "brushlabels":
        assert value["format"] == "rle"
        assert np.array_equal(decode_brush(value["rle"], size), item.mask)
        return
    left, top, right, bottom = item.box
    assert value["rotation"] == 0
    assert [value[name] for name in ("x", "y", "width", "height")] == pytest.approx(
        [100 * left / width, 100 * top / height, 100 * (right - left) / width, 100 * (bottom - top) / height], abs=1e-3
    )
    assert 0 <= value["x"] <= value["x"] + value["width"] < 100.001
    assert 0 <= value["y"] <= value["y"] + value["height"] < 100.001


@pytest.mark.parametrize("name", MODELS)
def test_recorded_tasks_get_the_prediction_that_python_gives(client, files, name):
    model, predictor = MODELS[name], twins.load(files[MODELS[name]], device="cpu")
    predictions = [one for one in recorded(name)["requests"] if one["path"].endswith("/predict")]
    assert [one["step"] for one in predictions] == ["interactive", "retrieve", "open"]
    for request in predictions:
        answer = client.send(request).raise_for_status().json()
        assert answer["model_version"] == version_of(files[model], model)
        for task, result in zip(request["body"]["tasks"], answer["results"], strict=True):
            (expected,) = predictor.predict(image_of(task, recorded(name)["uploads"]))
            items = list(expected)[:1] if name == "choices" else list(expected)
            assert result["model_version"] == answer["model_version"]
            assert result["score"] is None if name == "brushlabels" else 0 < result["score"] <= 1
            assert result["result"]
            for region, item in zip(result["result"], items, strict=True):
                assert region["type"] == name
                check_region(region, item, expected.size)


@pytest.mark.parametrize("name", MODELS)
def test_what_connects_a_model_is_answered_and_training_has_no_route(client, files, name):
    version = version_of(files[MODELS[name]], MODELS[name])
    expected = {
        "health": {"status": "UP", "model_class": "twins"},
        "setup": {"model_version": version},
        "versions": {"versions": [version]},
    }
    for request in recorded(name)["requests"]:
        route = request["path"].rpartition("/")[2]
        if route == "webhook":  # Label Studio sends events, asks for training, and goes on without an answer
            assert client.send(request).status_code == 404
        elif route != "predict":
            assert client.send(request).raise_for_status().json() == expected[route]


def test_of_several_models_the_address_names_one(client, files):
    setup = request_of("choices", "connect", "setup")
    assert client.send(setup, path="/setup?model=detection").json() == {
        "model_version": version_of(files["detection"], "detection")
    }
    several = client.send(setup, path="/setup")
    assert (several.status_code, several.json()["error"].partition(";")[0]) == (400, "this server has several models")
    for method, route in (("GET", "health"), ("GET", "versions"), ("POST", "setup"), ("POST", "predict")):
        unknown = client.send({**setup, "method": method}, path=f"/models/boxes/{route}")
        assert (unknown.status_code, "there is no model 'boxes'" in unknown.json()["error"]) == (404, True)


def test_all_tasks_of_a_project_are_predicted_though_they_are_more_than_the_images_of_a_request(client):
    request = request_of("choices", "retrieve", "predict")
    tasks = request["body"]["tasks"]
    few = client.send(request).json()["results"]
    many = client.send({**request, "body": request["body"] | {"tasks": tasks * 15}}).raise_for_status().json()
    assert len(tasks) * 15 > 2 * ServeConfig().max_images
    labels = [[region["value"] for region in one["result"]] for one in many["results"]]
    assert labels == [[region["value"] for region in one["result"]] for one in few] * 15
    assert client.send({**request, "body": request["body"] | {"tasks": []}}).json()["results"] == []


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/data/upload/0/missing.png", 422),
        ("http://elsewhere/a.png", 422),
        ("data:image/png;base64,AAAA", 400),
        ("data:,?", 400),
        (None, 400),
    ],
)
def test_a_task_whose_image_cannot_be_predicted_keeps_no_other_from_its_prediction(client, caplog, address, status):
    request = request_of("choices", "retrieve", "predict")
    first, *others = request["body"]["tasks"]
    tasks = [others[0], first | {"data": {"photo": address}}, others[1]]
    results = client.send({**request, "body": request["body"] | {"tasks": tasks}}).raise_for_status().json()["results"]
    assert results[1] == []  # Label Studio takes it for a task without a prediction
    assert [len(results[index]["result"]) for index in (0, 2)] == [1, 1]
    assert "a task of Label Studio has no prediction" in caplog.text
    alone = client.send({**request, "body": request["body"] | {"tasks": tasks[1:2]}})
    assert (alone.status_code, list(alone.json())) == (status, ["error"])


def test_an_interface_without_the_tag_for_the_network_gets_no_empty_predictions(client):
    request = request_of("choices", "retrieve", "predict")
    answer = client.send(request, path="/models/detection/predict")
    assert answer.status_code == 422
    assert "RectangleLabels" in answer.json()["error"]


def test_a_server_that_cannot_answer_refuses_the_whole_request(client, monkeypatch):
    monkeypatch.setattr(client.queues, "_closed", "the server is stopping")
    assert client.send(request_of("choices", "retrieve", "predict")).status_code == 503


def test_a_key_is_accepted_as_the_password_of_basic_authentication(files, label_studio, tmp_path):
    (tmp_path / "keys").write_text("KEY\n")
    client = Client([f"second={files['classification']}"], label_studio, Keys(tmp_path / "keys"))
    try:
        for request in recorded("basic_authentication")["requests"]:
            client.send(request).raise_for_status()
        for wrong in ("Basic " + base64.b64encode(b"KEY:").decode(), "Basic ?", "Basic", "Basic //8="):
            assert client.send(request, headers=request["headers"] | {"Authorization": wrong}).status_code == 401
    finally:
        client.close()


@pytest.mark.parametrize(
    ("token", "status"), [(LEGACY, 200), (PERSONAL, 200), ("a.b.c", 422), ("wrong", 422), ("", 422)]
)
def test_images_are_fetched_with_a_legacy_or_a_personal_token(client, monkeypatch, token, status):
    monkeypatch.setenv(TOKEN, token)
    assert client.send(request_of("choices", "interactive", "predict")).status_code == status


def test_the_version_changes_with_the_content_of_the_files_alone(client, files, tmp_path):
    (source,) = parse_models([files["detection"]])
    (tmp_path / "copies").mkdir()
    copies = [source.copy(tmp_path / "copies") for _ in range(2)]
    assert source.content_hash(copies[0]) == source.content_hash(copies[1]) == source.content_hash("")
    Path(copies[1]).with_name("config.json").write_text("{}")
    assert source.content_hash(copies[1]) != source.content_hash("")
    (published,) = parse_models(["twins_svt_small"])
    assert published.content_hash("twins_svt_small") == published.content_hash("") == ""


def test_more_tasks_than_a_request_may_have_are_refused(client):
    body = {"tasks": [{}] * 10_001, "label_config": '<View><Image name="i" value="$image"/></View>'}
    request = {"method": "POST", "path": "/models/detection/predict", "body": body, "headers": None}
    answer = client.send(request, headers={"content-type": "application/json"})
    assert (answer.status_code, list(answer.json())) == (413, ["error"])


def test_nothing_is_fetched_for_a_client_that_has_left(client, monkeypatch):
    fetched = []
    monkeypatch.setattr(
        "twins.serve.label_studio._images", lambda tasks, *_: fetched.extend(tasks) or [b""] * len(tasks)
    )
    interface = '<View><Image name="i" value="$image"/><RectangleLabels name="r" toName="i"/></View>'
    body = json.dumps({"tasks": [{"data": {"image": "data:,"}}] * 40, "label_config": interface}).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": "/models/detection/predict", "query_string": b""}
    scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "", "state": {}}
    sent = []

    async def receive():
        return next(messages, {"type": "http.disconnect"})

    async def send(message):
        sent.append(message)

    client.loop.run_until_complete(client.app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert fetched == []
