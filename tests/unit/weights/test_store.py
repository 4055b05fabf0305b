"""Published weights from a local hub server: downloaded once and verified; every failure is one sentence."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import huggingface_hub
import pytest

import twins
from twins.errors import NotFoundError, WeightsError
from twins.files import sha256
from twins.weights.store import resolve

REPO = "timm/twins_svt_small.in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CLIENT = """
import json, os, signal, sys, time
from twins.errors import TwinsError
from twins.weights.store import resolve

def answer(name, environment, stdout, stderr):
    signal.alarm(120)
    for path, number in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(environment)
    time.sleep = lambda seconds: None  # the client waits between its tries
    try:
        print(resolve(name), flush=True)
    except TwinsError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 2
    return 0

for line in sys.stdin:
    assert "huggingface_hub" not in sys.modules  # it reads the environment once
    if not (child := os.fork()):
        os._exit(answer(*json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Forks a process for each request, which imports the hub's client with the environment of the request."""


pytestmark = pytest.mark.slow  # each question starts a process


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "model.safetensors"
    twins.save_weights(twins.create_model("twins_svt_nano", num_classes=2), path, "timm")
    return path.read_bytes()


@pytest.fixture
def hub(weights, serve_hub):
    with serve_hub(weights) as hub:
        yield hub


@pytest.fixture(scope="module")
def client():
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        yield client
        client.stdin.close()


@pytest.fixture
def ask(tmp_path, hub_environment, client):
    def ask(url, name=REPO, **settings):
        environment = hub_environment(url, tmp_path / "hub") | settings
        stdout, stderr = tmp_path / "stdout", tmp_path / "stderr"
        print(json.dumps([name, environment, str(stdout), str(stderr)]), file=client.stdin, flush=True)
        code = int(client.stdout.readline())
        return subprocess.CompletedProcess(name, code, stdout.read_text(), stderr.read_text())

    return ask


def _path(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def _error_message(done):
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert all("%|" in line for line in done.stderr.splitlines())  # nothing but the download's progress
    assert done.stdout.startswith("WeightsError: ")
    return done.stdout.strip()


def _blobs(tmp_path):
    """Return the complete files of the cache; hub clients before 2.0 keep incomplete ones under another name."""
    return [path for path in (tmp_path / "hub").rglob("blobs/*") if path.suffix != ".incomplete"]


def test_a_download_is_cached_and_used_offline(hub, ask, weights):
    path = _path(ask(hub.url))
    assert Path(path).read_bytes() == weights
    assert Path(path).with_name("config.json").exists()
    hub.requests.clear()
    for switch in ("TWINS_OFFLINE", "HF_HUB_OFFLINE"):
        assert _path(ask(hub.url, **{switch: "1"})) == path
    assert hub.requests == []
    assert _path(ask(hub.url)) == path
    assert all(method == "HEAD" for method, _ in hub.requests)


def test_all_names_of_a_model_resolve_to_the_same_file(hub, ask):
    path = _path(ask(hub.url))
    for name in ("twins_svt_small", "Twins-SVT-S"):
        assert _path(ask(hub.url, name, TWINS_OFFLINE="1")) == path


def test_a_cached_file_is_used_if_the_hub_cannot_be_reached(hub, ask):
    path = _path(ask(hub.url))
    assert _path(ask(_unreachable_url())) == path
    hub.status = 503
    assert _path(ask(hub.url)) == path


def test_a_download_with_a_wrong_hash_is_removed_and_downloaded_again(hub, ask, tmp_path, weights):
    hub.bodies["model.safetensors"] = bytes([weights[0] ^ 1]) + weights[1:]
    message = _error_message(ask(hub.url))
    assert f"the file of {REPO} is damaged" in message
    assert hub.etags["model.safetensors"][:12] in message
    assert not any(path.stat().st_size == len(weights) for path in _blobs(tmp_path))
    hub.bodies["model.safetensors"] = weights
    assert _sha256(_path(ask(hub.url))) == hub.etags["model.safetensors"]


def test_a_damaged_cached_file_is_removed_and_downloaded_again(hub, ask, weights):
    path = _path(ask(hub.url))
    with open(path, "r+b") as file:
        file.seek(len(weights) // 2)
        file.write(b"\x00\xff\x00\xff")
    assert "is damaged (SHA-256" in _error_message(ask(hub.url, TWINS_OFFLINE="1"))
    assert "are not on this machine" in _error_message(ask(hub.url, TWINS_OFFLINE="1"))
    assert _sha256(_path(ask(hub.url))) == hub.etags["model.safetensors"]


def test_a_truncated_download_is_not_cached(hub, ask, tmp_path, weights):
    hub.bodies["model.safetensors"] = weights[: len(weights) // 2]
    message = _error_message(ask(hub.url))
    assert f"the weights of {REPO} did not arrive whole" in message
    assert not _blobs(tmp_path)


@pytest.mark.skipif(int(version("huggingface_hub").partition(".")[0]) < 2, reason="older clients do not try again")
def test_a_broken_connection_is_retried(hub, ask):
    hub.breaks = 2
    assert _sha256(_path(ask(hub.url))) == hub.etags["model.safetensors"]
    assert hub.requests.count(("GET", "model.safetensors")) == 3


def test_a_connection_that_stays_broken_raises_one_sentence(hub, ask, tmp_path):
    hub.breaks = 100
    assert f"the weights of {REPO} did not arrive whole" in _error_message(ask(hub.url))
    assert not _blobs(tmp_path)


@pytest.mark.parametrize("code", ["RepoNotFound", "EntryNotFound", ""])
def test_a_file_that_the_hub_does_not_have_raises_one_sentence(code, hub, ask):
    hub.status, hub.headers = 404, {"X-Error-Code": code, "X-Error-Message": "nothing here"}
    message = _error_message(ask(hub.url))
    assert f"the hub does not give {REPO}" in message
    assert "download the file and pass its path" in message


@pytest.mark.parametrize("status", [401, 500])
def test_a_hub_that_refuses_raises_one_sentence(status, hub, ask):
    hub.status = status
    assert f"the hub does not give {REPO} (HTTP {status}" in _error_message(ask(hub.url))


def test_weights_without_a_config_are_refused(hub, ask):
    del hub.bodies["config.json"]
    assert f"the hub does not give {REPO} (HTTP 404" in _error_message(ask(hub.url))


def test_a_server_that_is_no_hub_raises_one_sentence(hub, ask):
    hub.status = 204
    assert f"the server that answers for {REPO} is no hub; check HF_ENDPOINT" in _error_message(ask(hub.url))


def test_a_host_that_cannot_be_reached_raises_one_sentence(ask):
    message = _error_message(ask(_unreachable_url()))
    assert f"the weights of {REPO} are not on this machine and the hub cannot be reached" in message


@pytest.mark.parametrize("switch", ["TWINS_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_without_a_cached_file_raises_without_a_request(switch, hub, ask):
    message = _error_message(ask(hub.url, **{switch: "1"}))
    assert "are not on this machine and downloads are switched off" in message
    assert hub.requests == []


def test_a_cache_that_cannot_be_written_raises_one_sentence(hub, ask, tmp_path):
    (tmp_path / "file").touch()
    message = _error_message(ask(hub.url, HF_HOME=str(tmp_path / "file")))
    assert f"{REPO} cannot be stored in the hub's cache (Not a directory: " in message


def test_an_existing_path_is_returned_and_a_missing_one_is_refused(tmp_path):
    (tmp_path / "model.pth").touch()
    assert resolve(tmp_path / "model.pth") == tmp_path / "model.pth"
    for missing in ("missing.pth", "./missing", "a/b/c"):
        with pytest.raises(NotFoundError, match="no weight file"):
            resolve(missing)
    with pytest.raises(NotFoundError, match=r"did you mean twins_svt_small"):
        resolve("twins_svt_smal")


def test_the_error_for_a_model_without_published_weights_lists_those_with_them():
    with pytest.raises(NotFoundError, match=r"twins_svt_nano has no published weights.*twins_svt_small"):
        resolve("twins_svt_nano")


def _sha256(path):
    return sha256(Path(path))


def _unreachable_url():
    """Return a URL without a server."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def test_the_network_is_announced_and_a_hub_without_an_answer_is_given_up_at_once(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("the client would try for half a minute")

    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, name: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr("twins.weights.store.socket.create_connection", refuse)
    monkeypatch.setattr("twins.weights.store.getproxies", dict)
    for switch in ("TWINS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(switch, raising=False)
    announced = []
    with pytest.raises(WeightsError, match="are not on this machine and the hub cannot be reached"):
        resolve("twins_svt_small", on_download=announced.append)
    assert announced == [REPO]
