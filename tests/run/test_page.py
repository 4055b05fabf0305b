"""The page of `twins serve` in a real Chromium, as its users see and hear it."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from matplotlib import colormaps
from PIL import Image
from playwright.sync_api import Browser, Error, Locator, Page, Route, expect, sync_playwright
from served import PICTURES, Server, picture, save_networks

import twins
from twins.drawing import DrawConfig
from twins.serve.pages import FOLDER

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DETECTOR, MASKS, SEMANTIC, CLASSES = "detection", "instance", "semantic", "classification"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Networks with scores all over the range."""
    return save_networks(tmp_path_factory.mktemp("served"), {DETECTOR: 3.45, MASKS: 4})


@pytest.fixture(scope="module")
def server(files, tmp_path_factory):
    """All four networks, an exported file, and a run with example images; two have names that look like markup."""
    folder = tmp_path_factory.mktemp("page")
    run = folder / "<img src=x onerror=alert(1)>"
    (run / "examples").mkdir(parents=True)
    (run / "examples" / "01.png").write_bytes(PICTURES[0])
    (run / "best.safetensors").write_bytes(files[CLASSES].read_bytes())
    twins.export(files[CLASSES], folder / "exported.onnx", twins.ExportConfig())
    models = [*map(str, files.values()), str(folder / "exported.onnx"), str(run)]
    with Server(folder, *models, "--max-megapixels", "2") as running:
        yield running


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("the tests of the page need Chromium or Chrome, and none is installed")
    with sync_playwright() as playwright:
        # without a sandbox, which containers do not allow root to make; the pages are this server's alone
        arguments = ["--no-sandbox", "--disable-gpu"]
        arguments += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]  # a camera's test picture
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.fixture
def page(chromium: Browser, server: Server):
    """The page, which must ask no other server for anything and report no error."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.address)
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    page.on("request", lambda request: None if is_own(request.url, server) else faults.append(request.url))
    yield page
    context.close()
    assert not faults


def is_own(address: str, server: Server) -> bool:
    return address.startswith((f"{server.address}/", f"blob:{server.address}/"))


def open_page(page: Page, server: Server, model: str, **fields: str) -> None:
    words = "&".join(f"{name}={value}" for name, value in {"model": model, **fields}.items())
    page.goto(f"{server.address}/#{words}")
    expect(page.get_by_label("Model")).to_have_value(model)


def give(page: Page, *contents: bytes, kind: str = "image/png", name: str = "picture") -> None:
    page.set_input_files(
        "#files",
        [{"name": f"{name}{i}.png", "mimeType": kind, "buffer": content} for i, content in enumerate(contents)],
    )
    expect(page.locator("#status")).not_to_contain_text("Predicting")


def drawn(page: Page, index: int = 0) -> np.ndarray:
    """Return the pixels of a pane, RGB."""
    page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    address = page.locator("#panes canvas").nth(index).evaluate("canvas => canvas.toDataURL()")
    content = base64.b64decode(address.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def reference(file: Path, content: bytes, score: float = 0.3, **config: object) -> np.ndarray:
    objects = any(task in file.name for task in (DETECTOR, MASKS))
    predictor = twins.load(file, selection=twins.SelectionConfig(score=score) if objects else None)
    return np.asarray(predictor.predict(content)[0].draw(config=DrawConfig(**config)))


@pytest.mark.parametrize("task", [DETECTOR, MASKS, SEMANTIC])
def test_the_overlay_is_that_of_predict_at_each_threshold(page, server, files, task):
    open_page(page, server, task)
    give(page, PICTURES[3])
    expect(page.locator("#panes canvas")).to_be_visible()
    if task == SEMANTIC:
        assert_alike(drawn(page), reference(files[task], PICTURES[3], labels=False))
        return
    page.get_by_label("Names and scores").uncheck()
    counts = []
    for score in (0.2, 0.3, 0.5) if task == DETECTOR else (0.4, 0.5, 0.6):
        page.get_by_label("Score above, as a number").fill(str(score))
        page.get_by_label("Score above, as a number").press("Enter")
        found = twins.load(files[task], selection=twins.SelectionConfig(score=score)).predict(PICTURES[3])[0]
        counts.append(len(found))
        shown = page.get_by_role("list", name="Classes").get_by_role("checkbox").count()
        assert shown == len(set(found.labels.tolist()))
        assert_alike(drawn(page), reference(files[task], PICTURES[3], score, labels=False))
    assert counts[0] > counts[1] > counts[2] > 0


def assert_alike(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 4  # rounding of colours that are blended often


def test_opacity_and_labels_change_the_picture_without_a_request(page, server, files):
    open_page(page, server, MASKS, score="0.5")
    give(page, PICTURES[0])
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    before = drawn(page)
    page.get_by_label("Names and scores").uncheck()
    page.get_by_label("Opacity").fill("0.2")
    page.wait_for_timeout(100)
    assert (drawn(page) != before).any()
    assert_alike(drawn(page), reference(files[MASKS], PICTURES[0], 0.5, opacity=0.2, labels=False))
    assert not asked


def test_a_class_is_switched_off_and_on(page, server, files):
    open_page(page, server, DETECTOR)
    give(page, PICTURES[0])
    with_all, boxes = drawn(page), page.get_by_role("list", name="Classes").get_by_role("checkbox")
    objects = page.get_by_role("list", name="Objects").get_by_role("listitem")
    count = objects.count()
    boxes.first.uncheck()
    assert objects.count() < count
    assert (drawn(page) != with_all).any()
    expect(boxes.first).to_be_focused()
    boxes.first.check()
    assert (drawn(page) == with_all).all()
    page.get_by_role("button", name="Hide all").click()
    bare = reference(files[DETECTOR], PICTURES[0], 0.99999)
    assert_alike(drawn(page), bare)


def test_a_click_shows_what_the_point_attends_to(page, server):
    open_page(page, server, SEMANTIC)
    give(page, PICTURES[0])
    page.get_by_role("tab", name="Attention").click()
    panel = page.get_by_role("tabpanel", name="Attention")
    expect(panel.get_by_role("heading").first).to_contain_text("Evidence for")
    maps = panel.get_by_role("button", name=re.compile("stage"))
    assert maps.count() >= 10  # evidence and keys of four stages, windows of those that have them
    default = drawn(page)
    with page.expect_response(re.compile("/v1/attention")) as answer:
        page.locator("#panes canvas").click(position={"x": 30, "y": 20})
    expect(panel.get_by_role("heading").first).to_contain_text("Attention of the token")
    point, (height, width) = answer.value.json()["point"], answer.value.json()["size"]
    area = page.locator("#panes canvas").bounding_box()
    assert abs(point["x"] - 30 / area["width"] * width) < 1
    assert abs(point["y"] - 20 / area["height"] * height) < 1
    panel.get_by_role("button", name="Keys, stage 2").click()
    panel.get_by_label("Head").focus()
    with page.expect_response(re.compile("/v1/attention.*head=2")) as answer:
        panel.get_by_label("Head").select_option("2")
    expect(panel.get_by_label("Head")).to_be_focused()
    most = np.max(answer.value.json()["stages"][0]["keys"]["weights"])
    expect(panel.locator(".scale")).to_contain_text(f"{100 * most:.1f} %")
    assert not np.array_equal(drawn(page), default)
    panel.get_by_role("button", name="Back to the decision").click()
    expect(panel.get_by_role("heading").first).to_contain_text("Evidence for")
    page.get_by_role("tab", name="Result").click()
    assert not np.array_equal(drawn(page), default)


def test_each_key_has_the_colour_of_its_weight_and_nothing_of_another_map_is_left(page, server):
    """On an image that Chromium cannot show, the picture is white, and so the colours are known."""
    open_page(page, server, CLASSES)
    Image.open(io.BytesIO(PICTURES[2])).save(content := io.BytesIO(), format="TIFF")
    give(page, content.getvalue(), kind="image/tiff")
    with page.expect_response(re.compile("/v1/attention")) as answer:
        page.get_by_role("tab", name="Attention").click()
    page.get_by_role("button", name="Keys, stage 1").click()
    keys, token = (answer.value.json()["stages"][0][name] for name in ("keys", "token_box"))
    shown = drawn(page)
    weights, enlarged = np.array(keys["weights"]), shown.shape[0] // 64
    (x0, y0, x1, y1), token = ([enlarged * side for side in box] for box in (keys["box"], token))
    rows, columns = weights.shape
    compared = 0
    for (row, column), weight in np.ndenumerate(weights):
        y, x = y0 + (row + 0.25) * (y1 - y0) / rows, x0 + (column + 0.25) * (x1 - x0) / columns
        if token[0] - 20 < x < token[2] + 20 and token[1] - 20 < y < token[3] + 20:
            continue  # below the border of the token
        assert np.abs(shown[int(y), int(x)] - blended(weight / weights.max())).max() <= 3
        compared += 1
    assert compared >= 3
    page.get_by_role("button", name="Window, stage 1").click()
    assert (drawn(page) != shown).any()
    page.get_by_role("button", name="Keys, stage 1").click()
    assert (drawn(page) == shown).all()


def blended(share: float) -> np.ndarray:
    """Return the colour of a weight relative to the largest: magma over white that was made darker."""
    level = round(255 * share) / 255
    stops = (255 * colormaps["magma"](np.linspace(0, 1, 9))[:, :3]).round()
    colour = np.array([np.interp(level, np.linspace(0, 1, 9), stops[:, i]) for i in range(3)])
    opacity = (40 + 160 * level) / 255
    return 0.8 * 255 * (1 - opacity) + opacity * colour


def test_look_at_an_object_asks_for_its_centre(page, server, files):
    open_page(page, server, DETECTOR, score="0.1")
    give(page, PICTURES[0])
    prediction = twins.load(files[DETECTOR], selection=twins.SelectionConfig(score=0.1)).predict(PICTURES[0])[0]
    with page.expect_response(re.compile(r"/v1/attention\?.*x=")) as answer:
        page.get_by_role("button", name=re.compile("Look at")).first.click()
    left, top, right, bottom = prediction.boxes[0].tolist()
    point = answer.value.json()["point"]
    assert np.allclose([point["x"], point["y"]], [(left + right) / 2, (top + bottom) / 2], atol=0.02)
    expect(page.get_by_role("tab", name="Attention")).to_be_focused()


def hold(page: Page, pattern: str) -> list[Route]:
    """Keep the requests of a route until the test lets them go on."""
    held: list[Route] = []
    page.route(re.compile(pattern), lambda route: held.append(route))
    return held


def let_go(page: Page, held: list[Route], pattern: str) -> None:
    page.unroute(re.compile(pattern))
    for route in held:
        with contextlib.suppress(Error):  # the page has given it up
            route.continue_()
    page.wait_for_load_state("networkidle")


def test_nothing_of_one_image_is_shown_with_another(page, server):
    """While an answer is awaited, what was shown before is gone, and a late answer changes nothing."""
    open_page(page, server, DETECTOR)
    give(page, PICTURES[0], name="first")
    held = hold(page, "/v1/predict")
    page.set_input_files("#files", [{"name": "second.png", "mimeType": "image/png", "buffer": PICTURES[1]}])
    expect(page.locator("#image-name")).to_have_text("second.png")
    page.get_by_label("Score above", exact=True).fill("0.4")
    drawn(page)
    expect(page.locator("#results")).to_be_empty()
    expect(page.locator("#panel-save")).to_be_empty()
    page.get_by_role("list", name="Images tried").get_by_role("button", name="first0.png").click()
    expect(page.locator("#results")).not_to_be_empty()
    shown = drawn(page)
    let_go(page, held, "/v1/predict")
    assert (drawn(page) == shown).all()


def test_a_late_answer_for_a_head_is_not_drawn_over_a_newer_point(page, server):
    open_page(page, server, SEMANTIC)
    give(page, PICTURES[0])
    page.get_by_role("tab", name="Attention").click()
    panel = page.get_by_role("tabpanel", name="Attention")
    panel.get_by_role("button", name="Keys, stage 2").click()
    held = hold(page, "head=2")
    panel.get_by_label("Head").select_option("2")
    page.locator("#panes canvas").click(position={"x": 40, "y": 30})
    expect(panel.get_by_role("heading").first).to_contain_text("Attention of the token")
    newer = drawn(page)
    let_go(page, held, "head=2")
    assert (drawn(page) == newer).all()
    expect(panel.get_by_label("Head")).to_have_value("")


def test_the_point_moves_to_the_border_of_what_the_network_sees(page, server):
    """The border is no round number: the crop of 125 x 100 pixels begins at 18.7."""
    open_page(page, server, CLASSES)
    give(page, picture(3, 125, 100))
    page.get_by_role("tab", name="Attention").click()
    expect(page.get_by_role("tabpanel", name="Attention")).to_contain_text("Evidence for")
    page.locator("#panes .frame").focus()
    with page.expect_response(re.compile("/v1/attention.*x=")) as answer:
        for _ in range(30):
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("ArrowUp")
    assert answer.value.status == 200
    assert all(stage["token"] == [0, 0] for stage in answer.value.json()["stages"])


def test_attention_is_drawn_on_the_picture_of_its_model_alone(page, server):
    open_page(page, server, SEMANTIC, beside=CLASSES)
    give(page, PICTURES[0])
    page.get_by_role("tab", name="Attention").click()
    panel = page.get_by_role("tabpanel", name="Attention")
    expect(panel.get_by_label("Attention of")).to_have_value(SEMANTIC)
    expect(panel).to_contain_text("Evidence for")
    first = drawn(page, 0)
    panel.get_by_label("Attention of").select_option(CLASSES)
    expect(panel.get_by_role("heading").first).to_contain_text("Evidence for")
    assert not np.array_equal(drawn(page, 0), first)  # its own result again
    assert (drawn(page, 0)[..., 0] != drawn(page, 0)[..., 1]).any()


def test_files_of_one_name_in_two_folders_are_two_images(page, server, tmp_path):
    for folder, content in (("cat", PICTURES[0]), ("dog", PICTURES[1])):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "1.png").write_bytes(content.ljust(20_000, b"\0"))
        os.utime(tmp_path / "data" / folder / "1.png", (1, 1))
    open_page(page, server, CLASSES)
    page.set_input_files("#folder", tmp_path / "data")
    expect(page.get_by_role("table").get_by_role("row")).to_have_count(3)
    names = page.get_by_role("table").locator("tbody td:nth-child(2)").all_inner_texts()
    assert names == ["data/cat/1.png", "data/dog/1.png"]


def test_a_very_long_image_can_be_seen(page, server):
    open_page(page, server, SEMANTIC)
    give(page, picture(1, 4000, 20))
    box = page.locator("#panes .frame").bounding_box()
    canvas = page.locator("#panes canvas").bounding_box()
    assert box["height"] > 100
    assert canvas["width"] == pytest.approx(box["width"], rel=0.05)


def test_an_exported_file_shows_why_it_has_no_attention(page, server):
    open_page(page, server, "exported")
    give(page, PICTURES[0])
    page.get_by_role("tab", name="Attention").click()
    expect(page.get_by_role("tabpanel", name="Attention")).to_contain_text("holds no attention maps")


def test_two_models_side_by_side(page, server, files):
    open_page(page, server, DETECTOR, beside=MASKS, score="0.5")
    give(page, PICTURES[0])
    expect(page.locator("#panes canvas")).to_have_count(2)
    page.get_by_label("Names and scores").uncheck()
    page.wait_for_timeout(100)
    for index, task in enumerate((DETECTOR, MASKS)):
        assert_alike(drawn(page, index), reference(files[task], PICTURES[0], 0.5, labels=False))
    for task in (DETECTOR, MASKS):
        expect(page.locator("#results").get_by_role("heading", name=task)).to_be_visible()


def test_several_images_make_a_table_that_sorts_and_saves(page, server, files):
    open_page(page, server, CLASSES)
    requests = []
    page.on("request", lambda request: requests.append(request.url) if "/v1/predict" in request.url else None)
    give(page, *PICTURES, b"no image")
    expect(page.locator("#status")).to_contain_text("6 images, 1 of them refused")
    assert len(requests) == 6
    table = page.get_by_role("table")
    expect(table.get_by_role("row")).to_have_count(7)
    expect(table).to_contain_text("no image in a known format")
    table.get_by_role("button", name="score").click()
    scores = [float(text.split()[0]) for text in table.locator("tbody td:nth-child(4)").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    expect(table.get_by_role("columnheader", name="score")).to_have_attribute("aria-sort", "descending")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    best = twins.load(files[CLASSES]).predict(PICTURES[0])[0]
    (row,) = [line.split(",") for line in lines if line.startswith("picture0")]
    assert (row[1], float(row[2])) == (best.name(int(best.labels[0])), pytest.approx(float(best.scores[0]), abs=1e-5))
    page.get_by_role("button", name="Grid").click()
    page.locator(".cards").get_by_role("button").nth(1).click()
    expect(page.get_by_role("list", name="Images tried").get_by_role("button")).to_have_count(6)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#several")).to_be_hidden()


def test_what_is_saved_is_the_prediction(page, server, files):
    open_page(page, server, MASKS, score="0.5")
    give(page, PICTURES[0])
    page.get_by_role("tab", name="Save").click()
    selection = twins.SelectionConfig(score=0.5)
    prediction = twins.load(files[MASKS], selection=selection).predict(PICTURES[0])[0]
    saved = {}
    for name in ("COCO results", "PNG", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        saved[name] = Path(download.value.path()).read_bytes()
    found, expected = json.loads(saved["COCO results"]), prediction.to_coco(1)
    assert [one["category_id"] for one in found] == [one["category_id"] for one in expected]
    assert np.allclose([one["bbox"] for one in found], [one["bbox"] for one in expected], atol=0.01)
    assert [one["segmentation"] for one in found] == [one["segmentation"] for one in expected]
    assert Image.open(io.BytesIO(saved["PNG"])).size == prediction.draw().size
    assert json.loads(saved["JSON"])["task"] == MASKS


def test_the_request_to_copy_gives_the_shown_prediction(page, server, tmp_path):
    open_page(page, server, DETECTOR, score="0.1")
    give(page, PICTURES[0])
    page.get_by_role("tab", name="Request").click()
    (tmp_path / "picture0.png").write_bytes(PICTURES[0])
    programs = {"curl": ["bash", "-c"], "Python": [sys.executable, "-c"]}
    for name, program in programs.items():
        if not shutil.which(name) and name == "curl":
            continue
        page.get_by_role("button", name=f"Copy {name}", exact=True).click()
        text = page.evaluate("navigator.clipboard.readText()")
        assert f"{server.address}/v1/predict" in text
        assert "0.1" in text
        assert run_copied(program, text, tmp_path)["model"] == DETECTOR


def test_the_request_of_an_example_fetches_it_first(page, server, tmp_path):
    open_page(page, server, CLASSES)
    page.get_by_label("Model").select_option("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Example 01.png").click()
    expect(page.locator("#results")).to_contain_text("%")
    page.get_by_role("tab", name="Request").click()
    page.get_by_role("button", name="Copy Python").click()
    text = page.evaluate("navigator.clipboard.readText()")
    assert run_copied([sys.executable, "-c"], text, tmp_path)["predictions"][0]["size"] == [60, 90]
    page.get_by_role("tab", name="Attention").click()
    expect(page.get_by_role("tabpanel", name="Attention")).to_contain_text("Evidence for")
    page.get_by_role("tab", name="Request").click()
    page.get_by_role("button", name="Copy curl for attention").click()
    text = page.evaluate("navigator.clipboard.readText()")
    if shutil.which("curl"):
        assert run_copied(["bash", "-c"], text, tmp_path)["point"]["chosen_by"] == "evidence"


def run_copied(program: list[str], text: str, folder: Path) -> dict[str, object]:
    command = [*program, text]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True).stdout
    return json.loads(output) if program[0] == "bash" else ast.literal_eval(output)


def test_an_image_is_pasted_or_dropped(page, server):
    open_page(page, server, CLASSES)
    script = """([bytes, kind]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], kind + ".png", { type: "image/png" }));
      const init = { bubbles: true, cancelable: true };
      const event = kind === "paste" ? new ClipboardEvent(kind, { ...init, clipboardData: data })
                                     : new DragEvent(kind, { ...init, dataTransfer: data });
      document.body.dispatchEvent(event);
    }"""
    for kind in ("paste", "drop"):
        page.evaluate(script, [list(PICTURES[0]), kind])
        expect(page.locator("#image-name")).to_have_text(f"{kind}.png")
        expect(page.locator("#results")).to_contain_text("%")


def test_a_picture_is_taken_with_the_camera(page, server):
    open_page(page, server, CLASSES)
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator("#image-name")).to_have_text("camera-1.jpg")
    expect(page.locator("#results")).to_contain_text("%")
    assert page.evaluate("document.querySelector('video').srcObject.getTracks()[0].readyState") == "ended"


def test_errors_are_one_sentence_each(page, server):
    open_page(page, server, CLASSES)
    give(page, b"no image")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("no image in a known format")
    give(page, picture(0, 1600, 1400))
    expect(alert).to_contain_text("1600 x 1400 pixels, the limit is 2,000,000")
    page.set_input_files("#files", [{"name": "notes.txt", "mimeType": "text/plain", "buffer": b"text"}])
    expect(alert).to_contain_text("notes.txt is no image")
    give(page, PICTURES[0])
    expect(alert).to_be_hidden()


def test_a_large_photograph_is_made_smaller_only_if_asked(page, server):
    """It is sent as it is, which is above the server's limit; after the button, a smaller one is predicted."""
    open_page(page, server, CLASSES)
    Image.new("RGB", (2400, 1800), "teal").save(content := io.BytesIO(), format="JPEG")
    give(page, content.getvalue(), kind="image/jpeg")
    expect(page.get_by_role("alert")).to_contain_text("2400 x 1800")
    server.wait_for(rf'"bytes": {len(content.getvalue())}\b')
    page.get_by_role("button", name="Send it with").click()
    expect(page.locator("#image-name")).to_have_text("picture0-1600.jpg")
    expect(page.locator("#results")).to_contain_text("%")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_name_is_never_markup(page, server):
    name = "<img src=x onerror=alert(1)>"
    open_page(page, server, CLASSES)
    page.get_by_label("Model").select_option(name)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.get_by_role("button", name="Example 01.png").click()
    expect(page.locator("#results")).to_contain_text(name)
    give(page, PICTURES[0], PICTURES[1], name="<script>alert(2)</script>")
    expect(page.get_by_role("table")).to_contain_text("<script>alert(2)</script>")
    for tab in ("Attention", "Request", "Save"):
        page.get_by_role("tab", name=tab).click()
    assert page.locator("main img[onerror]").count() == 0


def test_the_keyboard_alone_does_all(page, server):
    page.on("filechooser", lambda _: None)  # else Chromium may open its own before Playwright takes it over
    open_page(page, server, DETECTOR, score="0.1")
    press_until(page, page.get_by_role("button", name="Choose images"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": PICTURES[0]})
    expect(page.locator("#results")).to_contain_text("%")
    press_until(page, page.get_by_role("tab", name="Result"))
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel", name="Attention")).to_contain_text("Evidence for")
    press_until(page, page.get_by_role("region", name=re.compile("Image")), back=True)
    before = page.locator("#status").inner_text()
    with page.expect_response(re.compile("/v1/attention.*x=")):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    expect(page.locator("#status")).not_to_have_text(before)
    width = page.locator("#panes canvas").bounding_box()["width"]
    page.keyboard.press("+")
    assert page.locator("#panes canvas").bounding_box()["width"] > 1.4 * width
    page.keyboard.press("0")
    assert page.locator("#panes canvas").bounding_box()["width"] == pytest.approx(width, abs=1)


def press_until(page: Page, target: Locator, *, back: bool = False) -> None:
    for _ in range(40):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        if target.evaluate("element => element === document.activeElement"):
            outline = target.evaluate("element => getComputedStyle(element).outlineStyle")
            assert outline != "none"  # the focus is visible
            return
    raise AssertionError(f"{target} is not reached by Tab")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_a_phone_shows_all(chromium, server, scheme):
    context = chromium.new_context(viewport={"width": 1280, "height": 860}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()

    def check() -> None:
        found = Axe().run(page, options={"runOnly": WCAG}).response["violations"]
        assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found] == []
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0

    open_page(page, server, MASKS, beside=CLASSES, score="0.5")
    check()
    give(page, PICTURES[0], PICTURES[1])
    check()
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ("Attention", "Request", "Save", "Result"):
        page.get_by_role("tab", name=name).click()
        if name == "Attention":
            expect(page.get_by_role("tabpanel", name=name)).to_contain_text("ttention of the token")
        check()
    context.close()


def test_a_server_that_is_gone_is_said(chromium, files, tmp_path):
    context = chromium.new_context()
    page = context.new_page()
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    with Server(tmp_path, str(files[CLASSES]), "--api-keys", str(keys)) as server:
        page.goto(server.address)
        expect(page.locator("#status")).to_contain_text("needs a key")
        for key in ("wrong", "secret"):
            page.get_by_label("Key").fill(key)
            page.get_by_role("button", name="Use", exact=True).click()
            if key == "wrong":
                expect(page.get_by_role("alert")).to_contain_text("the key is not accepted")
        expect(page.locator("#about")).to_contain_text("5 classes (a, b, c, d, e)")
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        give(page, PICTURES[0])
        expect(page.locator("#results")).to_contain_text("%")
        page.get_by_role("tab", name="Request").click()
        expect(page.get_by_role("tabpanel", name="Request")).to_contain_text("$TWINS_KEY")
        assert "secret" not in page.content()
    give(page, PICTURES[1])
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer. Is it still running?")
    expect(page.locator("#results")).to_be_empty()  # nothing of the image before
    context.close()


def test_the_page_is_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 150_000
