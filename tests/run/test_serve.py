"""`twins serve` as a process: answers, clients of other programs, faults, reloads and its end."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from PIL import Image
from served import IMAGE, NETWORKS, PICTURES, SCORE, Server, save_networks

import twins
from twins.errors import WeightsError
from twins.serve.config import ServeConfig
from twins.serve.dispatcher import Dispatcher
from twins.serve.models import ServedModel
from twins.serve.queues import Queues
from twins.serve.sources import parse_models
from twins.token_attention import attention_at

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    return save_networks(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(files, tmp_path_factory):
    """A server of all four networks."""
    with Server(
        tmp_path_factory.mktemp("server"), *map(str, files.values()), "--max-delay-ms", "30", "--max-padding", "0.3"
    ) as running:
        yield running


def expected(files, task, content, **options):
    selection = None if task in ("classification", "semantic") else twins.SelectionConfig(score=SCORE)
    prediction = twins.load(files[task], selection=selection).predict(content)[0].to_dict(**options)
    return json.loads(json.dumps(prediction))


def same(found, reference):
    assert found.keys() == reference.keys()
    for name, value in reference.items():
        if name in ("scores", "boxes"):
            assert np.allclose(found[name], value, rtol=0, atol=1e-5 if name == "scores" else 0.01), name
        else:
            assert found[name] == value, name


@pytest.mark.parametrize("task", NETWORKS)
def test_an_answer_is_the_prediction_whatever_it_was_batched_with(server, files, task):
    fields = {"model": task} | ({"score": SCORE} if task in ("detection", "instance") else {})
    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda content: server.predict(content, **fields), PICTURES * 3))
    images, batches = (server.metric(f"twins_batch_images_{name}", model=task) for name in ("sum", "count"))
    assert images > 1.5 * batches  # they did share batches
    references = [expected(files, task, content) for content in PICTURES] * 3
    for response, reference in zip(responses, references, strict=True):
        assert response.status_code == 200, response.text
        (found,) = response.json()["predictions"]
        same(found, reference)


def test_a_worker_says_where_the_network_looks(server, files):
    for task in files:
        answer = server.client.post("/v1/attention", params={"model": task}, content=PICTURES[0], headers=IMAGE)
        found = answer.raise_for_status().json()
        reference = attention_at(twins.load(files[task]), PICTURES[0]).to_dict()
        assert found.keys() == reference.keys() | {"model", "milliseconds"}
        assert found["point"]["chosen_by"] == reference["point"]["chosen_by"]
        for one, other in zip(found["stages"], reference["stages"], strict=True):
            assert (one["blocks"], one["token"]) == (other["blocks"], other["token"])
            assert np.allclose(one["keys"]["weights"], other["keys"]["weights"], rtol=0, atol=1e-5)
    answer = server.client.post("/v1/attention?model=semantic&x=90&y=0", content=PICTURES[0], headers=IMAGE)
    assert (answer.status_code, list(answer.json())) == (422, ["error"])


def test_images_of_a_form_are_answered_in_their_order(server, files):
    parts = [("image", (f"{i}.png", content)) for i, content in enumerate(PICTURES)]
    answer = server.client.post("/v1/predict", params={"model": "detection", "score": SCORE, "top": 2}, files=parts)
    found = answer.json()["predictions"]
    assert len(found) == len(PICTURES)
    for one, content in zip(found, PICTURES, strict=True):
        same(one, expected(files, "detection", content, top=2))


@pytest.mark.parametrize(("task", "fields"), [("instance", {"score": SCORE, "top": 3}), ("semantic", {})])
@pytest.mark.parametrize("masks", ["rle", "polygon", "none"])
def test_masks_come_as_asked(server, files, task, fields, masks):
    (found,) = server.predict(PICTURES[0], model=task, masks=masks, **fields).json()["predictions"]
    top = fields.get("top")
    same(found, expected(files, task, PICTURES[0], masks=masks, top=top))


@pytest.mark.parametrize("task", NETWORKS)
def test_a_batch_of_unequal_images_gives_what_each_gets_alone(files, task):
    model = ServedModel(str(files[task]), device="cpu")
    model.network.double()
    predict = model.predictor.predict_pixels
    if model.selects:
        model._select(SCORE)
    pixels = [model.network.info.preprocess.pixels(Image.open(io.BytesIO(content))) for content in PICTURES]
    originals = [(64, 64)] * len(pixels)
    together = predict(pixels, originals)
    for one, image in zip(together, pixels, strict=True):
        (alone,) = predict([image], originals[:1])
        for name in ("labels", "scores", "boxes", "masks", "label_map"):
            first, second = getattr(one, name), getattr(alone, name)
            if first is not None:
                assert np.allclose(first, second, rtol=0, atol=1e-9), name  # float32 from equal float64 is equal


def test_the_mistakes_of_a_client_have_a_status_and_a_sentence(server):
    post = server.client.post
    cases = [
        (server.predict(PICTURES[0], model="detektion"), 404, "did you mean detection"),
        (server.predict(PICTURES[0]), 400, "several models"),
        (server.predict(b"no image", model="detection"), 400, "no image"),
        (server.predict(PICTURES[0][:1000], model="detection"), 400, "damaged"),
        (server.predict(b"", model="detection"), 400, "no image"),
        (server.predict(PICTURES[0], model="detection", score=1), 400, "score"),
        (server.predict(PICTURES[0], model="detection", scor=0.5), 400, "did you mean score"),
        (server.predict(PICTURES[0], model="semantic", score=0.5), 422, "leave out score"),
        (server.predict(PICTURES[0], model="detection", masks="png"), 400, "masks"),
        (post("/v1/predict?model=detection", json={}), 415, "content type"),
        (post("/v1/predict?model=detection", files={"picture": PICTURES[0]}), 400, "named image"),
        (post("/v1/predict?model=detection", files=[("image", ("a", b"1"))] * 17), 413, "16 images"),
        (server.predict(bytes(20_000_001), model="detection"), 413, "20,000,000 bytes"),
        (server.client.get("/v1/predict"), 405, "GET"),
        (server.client.get("/v1/predictions"), 404, "no route"),
    ]
    assert server.client.request("TRACE", "/").headers["allow"] == "GET, POST"
    for response, status, words in cases:
        assert (response.status_code, list(response.json())) == (status, ["error"]), response.text
        assert words in response.json()["error"]


def test_the_server_says_what_it_has(server):
    assert server.predict(PICTURES[0], model="classification").status_code == 200
    (model,) = [one for one in server.client.get("/v1/models").json()["models"] if one["name"] == "classification"]
    assert (model["task"], model["names"], model["runtime"]) == ("classification", list("abcde"), "pytorch")
    assert server.client.get("/health/live").json() == {"status": "live"}
    assert server.client.get("/health/ready").json() == {"status": "ready"}
    assert 'twins_requests_total{route="/v1/predict",status="200"}' in server.client.get("/metrics").text
    paths = server.client.get("/openapi.json").json()["paths"]
    assert {"/v1/predict", "/v2/models/{name}/infer", "/predict", "/setup", "/models/{name}"} <= paths.keys()
    for page in ("/", "/docs"):
        answer = server.client.get(page)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", answer.text)


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:80", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example:8000", 400), ("x<script>", 400)],
)
def test_a_server_without_keys_answers_for_this_machine_alone(server, host, status):
    """A page elsewhere whose name leads to 127.0.0.1 gets nothing."""
    answer = server.client.get("/v1/models", headers={"host": host})
    assert answer.status_code == status
    assert status == 200 or list(answer.json()) == ["error"]


def test_kserves_client_gets_the_outputs_of_an_exported_file(server, files):
    client = triton.InferenceServerClient(server.address.removeprefix("http://"))
    assert client.is_server_ready()
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    for task, path in files.items():
        assert client.is_model_ready(task)
        described = client.get_model_metadata(task)
        tensor = triton.InferInput("images", images.shape, "UINT8").set_data_from_numpy(images)
        names = [output["name"] for output in described["outputs"]]
        wanted = [triton.InferRequestedOutput(name, binary_data=i % 2 == 0) for i, name in enumerate(names)]
        found = client.infer(task, [tensor], outputs=wanted)
        reference = ServedModel(str(path), device="cpu").outputs(images, None)
        assert names == list(reference)
        for output in described["outputs"]:
            array = found.as_numpy(output["name"])
            assert all(side in (-1, length) for side, length in zip(output["shape"], array.shape, strict=True))
            assert np.allclose(array, reference[output["name"]], rtol=0, atol=1e-4), output["name"]
    sizes = np.array([[50, 96], [64, 70]], dtype=np.int64)
    inputs = [triton.InferInput("images", images.shape, "UINT8").set_data_from_numpy(images)]
    inputs.append(triton.InferInput("sizes", sizes.shape, "INT64").set_data_from_numpy(sizes))
    padded = client.infer("classification", inputs).as_numpy("probabilities")
    alone = ServedModel(str(files["classification"]), device="cpu").outputs(images[:1, :50].copy(), None)
    assert np.allclose(padded[:1], alone["probabilities"], rtol=0, atol=1e-5)


def test_hugging_faces_client_gets_its_schema(server, files):
    def client(task: str) -> InferenceClient:
        return InferenceClient(model=f"{server.address}/models/{task}")

    content = PICTURES[0]
    reference = twins.load(files["classification"]).predict(content)[0]
    answer = client("classification").image_classification(content, top_k=2)
    assert [one.label for one in answer] == [item.name for item in list(reference)[:2]]
    assert np.allclose([one.score for one in answer], reference.scores[:2], atol=1e-5)
    assert len(client("classification").image_classification(content)) == 5
    objects = client("detection").object_detection(content, threshold=SCORE)
    found = [[one.box.xmin, one.box.ymin, one.box.xmax, one.box.ymax] for one in objects]
    assert np.allclose(found, expected(files, "detection", content)["boxes"], rtol=0, atol=0.51)  # rounded
    segments = client("semantic").image_segmentation(content)
    reference = twins.load(files["semantic"]).predict(content)[0]
    for segment, item in zip(segments, reference, strict=True):
        assert segment.label == item.name
        assert np.array_equal(np.asarray(segment.mask) > 0, item.mask)


LABELS = (
    '<View><Image name="picture" value="$photo"/><RectangleLabels name="box" toName="picture"/>'
    '<BrushLabels name="brush" toName="picture"/><Choices name="kind" toName="picture"/></View>'
)


@pytest.mark.parametrize(
    ("task", "tag"), [("classification", "kind"), ("detection", "box"), ("semantic", "brush"), ("instance", "brush")]
)
def test_label_studio_gets_regions_for_its_tags(server, task, tag):
    address = "data:image/png;base64," + base64.b64encode(PICTURES[0]).decode()
    request = {
        "tasks": [{"id": 1, "data": {"photo": address}, "annotations": [], "predictions": [], "is_labeled": False}],
        "model_version": None,
        "project": "1.1764439000",
        "label_config": LABELS,
        "params": {"login": None, "password": None, "context": None},
    }
    answer = server.client.post("/predict", params={"model": task}, json=request).json()
    (result,) = answer["results"]
    assert result["model_version"] == answer["model_version"]
    assert {region["from_name"] for region in result["result"]} <= {tag}
    if task in ("classification", "semantic"):
        assert result["result"]
    setup = {
        "project": "1",
        "schema": LABELS,
        "hostname": "http://localhost:8080",
        "access_token": "t",
        "extra_params": None,
    }
    version = server.client.post("/setup", params={"model": task}, json=setup).json()
    assert version == {"model_version": answer["model_version"]}
    assert server.client.get("/health").json()["status"] == "UP"


def test_label_studios_images_are_fetched_from_no_other_address(server):
    request = {"tasks": [{"data": {"photo": f"{server.address}/"}}], "label_config": LABELS}
    answer = server.client.post("/predict", params={"model": "detection"}, json=request)
    assert answer.status_code == 422
    assert "--label-studio" in answer.json()["error"]


def test_a_client_that_leaves_or_sends_no_http_harms_nobody(server):
    head = b"POST /v1/predict?model=detection HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: 99999\r\n\r\n"
    trailers = b"POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 50_000
    for start in (b"", b"POST /v1/pre", head, head + PICTURES[0][:50], b"\0\xff\r\n\r\n", b"A" * 300_000, trailers):
        with server.connection() as connection:
            connection.sendall(start)
    assert server.predict(PICTURES[0], model="detection").status_code == 200


def test_a_refused_body_leaves_the_connection_usable(server):
    body = bytes(400_000)
    head = f"POST /nowhere HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with server.connection() as connection:
        connection.sendall(head)
        time.sleep(0.1)
        connection.sendall(body + b"GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n")
        answers = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"404", b"200"]
    assert answers.endswith(b'{"status":"live"}')


def test_logs_are_json_without_the_content_of_images(server):
    number = server.predict(PICTURES[0], model="detection").headers["x-request-id"]
    server.wait_for(number)
    wait_until(lambda: server.log.read_text().endswith("\n"))
    (event,) = [one for one in map(json.loads, server.log.read_text().splitlines()) if one.get("request") == number]
    assert {"method", "path", "status", "milliseconds", "bytes", "model", "images", "client"} <= event.keys()
    assert "PNG" not in server.log.read_text()


def test_a_killed_worker_is_replaced_and_no_request_is_lost(files, tmp_path):
    with Server(tmp_path, str(files["detection"]), "--workers", "2", "--max-delay-ms", "300") as server:
        statuses, done = [], threading.Event()

        def load() -> None:
            with httpx.Client(base_url=server.address, timeout=60) as client:
                while not done.is_set():
                    statuses.append(client.post("/v1/predict", content=PICTURES[0], headers=IMAGE).status_code)

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
            for number in range(3):
                os.kill(server.workers()[0], signal.SIGKILL)
                server.wait_for("is ready", 3 + number)
            done.set()
            for one in loads:
                one.result(60)
        assert set(statuses) == {200}
        assert "twins_worker_restarts 3.0" in server.client.get("/metrics").text
        with ThreadPoolExecutor(1) as pool:  # what it took before it was told to stop is finished
            answer = pool.submit(server.predict, PICTURES[0])
            time.sleep(0.1)
            assert server.stop() == 0
            assert answer.result().status_code == 200
    assert not server.workers()


def test_a_changed_file_is_switched_to_and_a_damaged_one_is_not(files, tmp_path):
    file = tmp_path / "model.safetensors"
    contents = [files[task].read_bytes() for task in ("classification", "semantic")]
    file.write_bytes(contents[0])
    with Server(tmp_path, f"m={file}", "--reload-seconds", "0.1") as server:
        assert server.predict(PICTURES[0]).json()["predictions"][0]["task"] == "classification"
        stop, tasks = threading.Event(), []

        def load() -> None:
            """Each request's images get answers of one model."""
            with httpx.Client(base_url=server.address, timeout=60) as client:
                while not stop.is_set():
                    answer = client.post("/v1/predict", files=[("image", ("a", c)) for c in PICTURES])
                    if answer.status_code != 503:  # while there is no worker
                        tasks.append({one["task"] for one in answer.json()["predictions"]})

        pool = ThreadPoolExecutor(2)
        loads = [pool.submit(load) for _ in range(2)]
        file.write_bytes(contents[1][:1000])
        server.wait_for("kept the old m")
        assert server.predict(PICTURES[0]).json()["predictions"][0]["task"] == "classification"
        os.kill(server.workers()[0], signal.SIGKILL)  # its replacement gets the model in use, not the file
        server.wait_for("is ready", 2)
        assert server.predict(PICTURES[0]).json()["predictions"][0]["task"] == "classification"
        file.write_bytes(contents[1])
        server.wait_for("switched m to version 2")
        assert server.predict(PICTURES[0]).json()["predictions"][0]["task"] == "semantic"
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("switched m to version 3")
        stop.set()
        for one in loads:
            one.result(60)
        assert {"classification"} in tasks
        assert {"semantic"} in tasks
        assert all(len(found) == 1 for found in tasks)


@pytest.fixture(scope="module")
def exported(files, tmp_path_factory) -> Path:
    """The classifier as an ONNX file of two images of a fixed size."""
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    twins.export(files["classification"], path, twins.ExportConfig(batch=2))
    return path


def test_an_exported_file_behind_keys_with_slow_clients_and_a_full_queue(exported, files, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    arguments = ["--max-queue", "2", "--max-images", "2", "--max-delay-ms", "1500", "--receive-seconds", "0.3"]
    arguments += ["--grace", "0.2", "--answer-seconds", "5"]
    with Server(tmp_path, str(exported), "--api-keys", str(keys), *arguments) as server:
        refused = server.predict(PICTURES[0])
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        for method, path in [
            ("GET", "/metrics"),
            ("POST", "/"),
            ("POST", "/v2/models/net/infer"),
            ("POST", "/predict"),
        ]:
            assert server.client.request(method, path, content=PICTURES[0]).status_code == 401
        assert [server.client.get(path).status_code for path in ("/", "/docs", "/health/ready")] == [200] * 3
        for headers in ({"Authorization": "Bearer secret"}, {"X-API-Key": "secret"}):
            answer = server.client.post("/v1/predict", content=PICTURES[0], headers=IMAGE | headers)
            same(answer.json()["predictions"][0], expected(files, "classification", PICTURES[0]))
        assert server.client.post("/v1/predict", headers={"X-API-Key": "other"}).status_code == 401
        assert "secret" not in server.log.read_text()
        # slow senders, of the head and of the body
        head = (
            b"POST /v1/predict HTTP/1.1\r\nX-API-Key: secret\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\n"
        )
        for start in (b"POST /v1", head):
            with server.connection() as connection:
                connection.sendall(start)
                assert b" 408 " in connection.recv(4096).partition(b"\r\n")[0]
        # a full queue, behind a worker that is busy
        server.client.headers["X-API-Key"] = "secret"
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(2) as pool:
            first = [pool.submit(server.predict, PICTURES[0])]
            wait_until(lambda: server.metric("twins_queue_images", model="net") == 0)
            first.append(pool.submit(server.client.post, "/v1/predict", files=[("image", ("a.png", PICTURES[0]))] * 2))
            wait_until(lambda: server.metric("twins_queue_images", model="net") == 2)
            third = server.predict(PICTURES[0])
            os.kill(worker, signal.SIGCONT)
            assert [answer.result().status_code for answer in first] == [200, 200]
        assert third.status_code == 429
        assert int(third.headers["retry-after"]) >= 1
        # what is not finished within the grace
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(server.predict, PICTURES[0])
            time.sleep(0.2)
            assert server.stop() == 0
            assert late.result().status_code == 503


def wait_until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_worker_that_dies_while_it_starts_ends_the_start_with_a_sentence(files, monkeypatch):
    monkeypatch.setattr("twins.serve.dispatcher.run_worker", print)  # which returns at once

    async def start() -> None:
        config = ServeConfig()
        dispatcher = Dispatcher(config, Queues(config, parse_models([str(files["classification"])])))
        try:
            await asyncio.wait_for(dispatcher.start(), 60)
        finally:
            await dispatcher.stop()

    with pytest.raises(WeightsError, match="died while it loaded"):
        asyncio.run(start())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "nothing"),
        (["{folder}"], "best.safetensors"),
        (["{file}", "--host", "0.0.0.0"], "--api-keys"),
        (["{file}", "--api-keys", "missing"], "no file of keys"),
        (["{file}", "{file}"], "have the name classification"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(files, tmp_path, arguments, words):
    given = [word.format(folder=tmp_path, file=files["classification"]) for word in arguments]
    command = [sys.executable, "-m", "twins", "serve", *given, "--port", "0"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    sentence = process.stderr.strip().splitlines()[-1]
    assert process.returncode == 2, process.stderr
    assert sentence.startswith("twins: ")
    assert words in sentence
    assert "Traceback" not in process.stderr
