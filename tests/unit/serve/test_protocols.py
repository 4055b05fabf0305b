"""What the protocols of other programs send, without a server."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from twins.serve import hugging_face, kserve, label_studio
from twins.serve.config import ServeConfig
from twins.serve.downloads import Downloads
from twins.serve.errors import RequestError
from twins.serve.messages import Description
from twins.weights.info import ModelInfo

INFO = ModelInfo(task="classification", model="twins_svt_nano", num_classes=2)
DESCRIPTION = Description(
    info=INFO,
    runtime="pytorch",
    precision="float32",
    pads=True,
    padding=0.0,
    masks=False,
    lowest_score=0.0,
    ranked=True,
    outputs=(("probabilities", "FP32", (-1, 2)),),
)
IMAGES = np.arange(2 * 32 * 33 * 3, dtype=np.int64).astype(np.uint8).reshape(2, 32, 33, 3)


def entry(array=IMAGES, **changes):
    return {"name": "images", "datatype": "UINT8", "shape": list(array.shape), "data": array.tolist()} | changes


def body(*inputs, tail=b"", **values):
    head = json.dumps({"inputs": list(inputs), **values}).encode()
    return head + tail, str(len(head)) if tail else None


def test_tensors_in_json_and_binary_are_the_same():
    _, plain = kserve.parse(*body(entry()))
    binary = {key: value for key, value in entry().items() if key != "data"}
    binary["parameters"] = {"binary_data_size": IMAGES.nbytes}
    _, raw = kserve.parse(*body(binary, tail=IMAGES.tobytes()))
    assert np.array_equal(plain["images"], IMAGES)
    assert np.array_equal(raw["images"], IMAGES)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "image"},
        {"datatype": "FP32"},
        {"datatype": "BYTES"},
        {"shape": [2, 32, 33]},
        {"shape": [-1, 32, 33, 3]},
        {"name": "sizes"},
        {"shape": "all"},
        {"shape": [10**9, 10**9]},
        {"data": [[1, 2], [3]]},
        {"data": [256] * IMAGES.size},
        {"data": [-1] * IMAGES.size},
        {"data": [0.5] * IMAGES.size},
        {"data": None},
        {"data": "text"},
        {"parameters": {"binary_data_size": -1}},
        {"parameters": {"binary_data_size": 10**12}},
        {"parameters": 3},
    ],
)
def test_a_wrong_tensor_is_400(changes):
    with pytest.raises(RequestError) as error:
        kserve.parse(*body(entry(**changes)))
    assert error.value.status == 400


@pytest.mark.parametrize("text", [b"", b"[]", b"3", b"{", b'{"inputs": 3}', b'{"inputs": [3]}', b"[" * 100_000])
def test_a_body_that_is_no_request_is_400(text):
    with pytest.raises(RequestError) as error:
        kserve.parse(text, None)
    assert error.value.status == 400


@pytest.mark.parametrize("header", ["-1", "x", "99999", "1.5", ""])
def test_a_wrong_length_of_the_json_is_400(header):
    with pytest.raises(RequestError) as error:
        kserve.parse(body(entry())[0], header)
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("tensors", "status"),
    [
        ({}, 400),
        ({"images": IMAGES[..., :1]}, 400),
        ({"images": IMAGES[:0]}, 400),
        ({"images": IMAGES[:, :31]}, 400),
        ({"images": np.zeros((5, 32, 32, 3), np.uint8)}, 413),
        ({"images": np.zeros((1, 200, 200, 3), np.uint8)}, 413),
        ({"images": IMAGES, "sizes": np.array([[32, 33]])}, 400),
        ({"images": IMAGES, "sizes": np.array([[32, 34], [32, 32]])}, 400),
        ({"images": IMAGES, "sizes": np.array([[32, 31], [32, 32]])}, 400),
    ],
)
def test_tensors_that_a_model_does_not_take_are_refused(tensors, status):
    with pytest.raises(RequestError) as error:
        kserve.jobs_of(tensors, DESCRIPTION, 4, 30_000)
    assert error.value.status == status


def test_an_answer_has_the_outputs_that_were_asked_for():
    outputs = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(2)}
    asked = {"id": "7", "outputs": [{"name": "b"}, {"name": "a", "parameters": {"binary_data": True}}]}
    response = kserve.respond(asked, "m", "3", outputs)
    length = int(response.headers[kserve.HEADER])
    head = json.loads(response.body[:length])
    assert (head["id"], head["model_version"]) == ("7", "3")
    assert head["outputs"][0] == {"name": "b", "datatype": "INT64", "shape": [2], "data": [0, 1]}
    assert np.array_equal(np.frombuffer(response.body[length:], np.float32), outputs["a"].ravel())
    wrong = [[{"name": "c"}], [{"name": "a"}] * 2, [{"name": [1]}], [{"name": None}], 3, [3], {"name": "a"}]
    for entries in wrong:
        with pytest.raises(RequestError) as error:
            kserve.respond({"outputs": entries}, "m", "3", outputs)
        assert error.value.status == 400


def test_hugging_faces_client_sends_bytes_or_json():
    assert hugging_face.parse(b"image", "image/png") == (b"image", {})
    text = json.dumps({"inputs": base64.b64encode(b"image").decode(), "parameters": {"top_k": 2}}).encode()
    assert hugging_face.parse(text, "application/json") == (b"image", {"top_k": 2})
    assert hugging_face.options_of({"top_k": 2, "threshold": None}, ranked=True).top == 2
    assert hugging_face.options_of({}, ranked=True).top == 5
    assert hugging_face.options_of({}, ranked=False).top is None


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"inputs": 3}', b'{"inputs": "?"}', b'{"inputs": "", "parameters": []}']
)
def test_json_of_another_shape_is_400(text):
    if text == b'{"inputs": "", "parameters": []}':  # an empty list of parameters is none
        assert hugging_face.parse(text, "application/json") == (b"", {})
        return
    with pytest.raises(RequestError) as error:
        hugging_face.parse(text, "application/json")
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"top_k": 0}, 400),
        ({"top_k": True}, 400),
        ({"threshold": 1.0}, 400),
        ({"threshold": "1"}, 400),
        ({"mask": 1}, 422),
    ],
)
def test_wrong_parameters_are_refused(parameters, status):
    with pytest.raises(RequestError) as error:
        hugging_face.options_of(parameters, ranked=True)
    assert error.value.status == status


INTERFACE = (
    '<View><Image name="picture" value="$photo"/><Labels name="words" toName="text"/>'
    '<RectangleLabels name="box" toName="picture"/><Choices name="other" toName="text"/></View>'
)


def test_the_controls_of_a_labelling_interface_are_those_of_its_images():
    assert label_studio.controls_of(INTERFACE) == {"RectangleLabels": label_studio.Control("box", "picture", "photo")}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("<View>", 400),
        ("<View a='\ud800'/>", 400),
        ("", 400),
        ("<View/>", 422),
        ('<!DOCTYPE a [<!ENTITY a0 "<b/><b/>"><!ENTITY a1 "&a0;&a0;">]><View>&a1;</View>', 400),
        ("<View>" + "<b/>" * 200_000 + "</View>", 413),
        (INTERFACE.replace(' value="$photo"', ""), 422),
    ],
)
def test_an_interface_without_controls_is_refused(text, status):
    with pytest.raises(RequestError) as error:
        label_studio.controls_of(text)
    assert error.value.status == status


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("http://elsewhere/a.jpg", 422),
        ("//elsewhere/a.jpg", 422),
        ("http://[", 422),
        ("/a b.jpg", 422),
        ("/\u00fc.jpg\r\nX: y", 422),
        ("file:///etc/passwd", 422),
        ("data:image/png;base64,?", 400),
    ],
)
def test_an_image_that_label_studio_does_not_hold_is_one_sentence(address, status):
    config = ServeConfig(label_studio="http://127.0.0.1:9")  # nobody listens
    error = label_studio._image({"data": {"photo": address}}, "photo", Downloads(config))
    assert isinstance(error, RequestError)
    assert error.status == status
