"""The adapters of annotation tools: in process with the tools' own types, servers over loopback."""

from __future__ import annotations

import base64
import json
import logging
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from clip_es import rle
from clip_es.errors import DataError
from clip_es.formats.yolo import edge_polygons
from clip_es.pipelines.adapters.cvat import DetectionFunction
from clip_es.pipelines.adapters.label_studio import Backend, Interface
from clip_es.pipelines.adapters.pictures import Pictures
from clip_es.pipelines.adapters.predict import Predictor
from clip_es.pipelines.adapters.server import server
from clip_es.pipelines.adapters.x_anylabeling import RemoteServer
from clip_es.pipelines.cli import main
from clip_es.records import voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.types import ImageRecord

CONFIG = """<View><Image name="img" value="$photo"/>
<Choices name="what" toName="img"><Choice value="x"/></Choices>
<BrushLabels name="brush" toName="img">{}</BrushLabels></View>"""


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load(device="cpu")


@pytest.fixture(scope="module")
def scene(tmp_path_factory, predictor) -> ImageRecord:
    """A drawn picture and its labels."""
    root = make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=0, val=1, side=(64, 80)))
    return voc(root, "val", class_id=predictor.maker.vocabulary.class_id).records[0]


@pytest.fixture(scope="module")
def names(scene, predictor) -> list[str]:
    return [predictor.names[k] for k in scene.class_ids]


@pytest.fixture(scope="module")
def mask(scene, names, predictor) -> np.ndarray:
    """What the maker itself says where the labels are given."""
    return predictor.result(scene.path, names).mask.labels


TOLD: list[str] = []


@pytest.fixture
def lines() -> list[str]:
    """What the servers tell during a test."""
    TOLD.clear()
    return TOLD


@pytest.fixture(scope="module")
def address(scene, predictor) -> Iterator[str]:
    """Both servers on one free port."""
    label_studio = Backend(predictor, Pictures(scene.path.parent), TOLD.append)
    with server(
        {**label_studio.routes, **RemoteServer(predictor, TOLD.append).routes}, port=0, tell=TOLD.append
    ) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()
        thread.join()


def ask(address: str, path: str, content: object = None) -> dict:
    data = None if content is None else json.dumps(content).encode()
    with urlopen(Request(address + path, data=data), timeout=60) as answer:
        return json.loads(answer.read())


def refused(address: str, path: str, data: bytes | None) -> tuple[int, str]:
    """The status and the error of a request that is refused."""
    with pytest.raises(HTTPError) as caught:
        urlopen(Request(address + path, data=data), timeout=60)
    with caught.value as answer:
        return answer.code, json.loads(answer.read())["error"]


def told(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    sys.stdout.write(f"{name}: {expected.size} pixels, {int((found != expected).sum())} differ\n")
    assert np.array_equal(found, expected)


def test_the_predictor_gives_the_pixels_of_the_maker(scene, names, predictor, mask):
    found = np.zeros_like(mask)
    for region in predictor.regions(scene.path, names):
        found[region.mask] = region.class_id + 1
        assert region.name in names
        assert 0 <= region.score <= 1
    told("regions", np.where(mask == 255, 255, found), mask)
    scores = [region.score for region in predictor.regions(scene.path, names)]
    assert predictor.regions(scene.path, names, least=max(scores) + 1e-6) == []


@pytest.mark.parametrize("as_polygons", [False, True])
def test_cvat_takes_the_shapes_of_the_function(scene, predictor, as_polygons):
    sdk = pytest.importorskip("cvat_sdk.auto_annotation.driver", exc_type=ImportError)
    from cvat_sdk import models
    from cvat_sdk.masks import decode_mask

    function = DetectionFunction(predictor)
    task = [
        models.Label(name=name, id=100 + k, type="any", attributes=[], sublabels=[])
        for k, name in enumerate(predictor.names)
    ]
    mapper = sdk._AnnotationMapper(
        logging.getLogger(), function.spec.labels, task, allow_unmatched_labels=False, conv_mask_to_poly=as_polygons
    )
    with Image.open(scene.path) as image:
        image.load()
        context = sdk._DetectionFunctionContextImpl(frame_name=scene.path.name, conv_mask_to_poly=as_polygons)
        shapes = function.detect(context, image)
        strict = sdk._DetectionFunctionContextImpl(frame_name=scene.path.name, conf_threshold=1.0)
        assert len(function.detect(strict, image)) <= len(shapes)
    tags, checked = mapper.validate_and_remap(shapes, 7)
    assert (tags, len(checked)) == ([], len(shapes))
    assert len(shapes) > 0
    expected = predictor.result(scene.path).mask.labels
    if not as_polygons:
        height, width = expected.shape
        found = np.zeros_like(expected)
        for shape in checked:
            assert shape.frame == 7
            found[decode_mask(shape.points, image_width=width, image_height=height)] = shape.label_id - 100 + 1
        told("CVAT masks by cvat_sdk", np.where(expected == 255, 255, found), expected)
    else:
        assert {shape.type.value for shape in checked} == {"polygon"}
        coco = pytest.importorskip("pycocotools.mask")  # What CVAT and Datumaro fill polygons with.
        found = np.zeros_like(expected)
        for shape in checked:
            (drawn,) = coco.frPyObjects([list(shape.points)], *expected.shape)
            found[rle.decode(drawn["counts"].decode(), expected.shape)] = shape.label_id - 100 + 1
        told("CVAT polygons by pycocotools", np.where(expected == 255, 255, found), expected)


@pytest.mark.parametrize("seed", range(4))
def test_polygons_along_edges_fill_every_pixel_and_no_other(seed):
    cv2, coco = pytest.importorskip("cv2"), pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    for mask in (rng.random((17, 23)) < (0.1, 0.4, 0.6, 0.9)[seed], np.ones((1, 1), bool), np.ones((5, 1), bool)):
        rings = edge_polygons(mask, cv2)
        filled = np.zeros_like(mask)
        for ring in rings:
            (drawn,) = coco.frPyObjects([[float(v) for point in ring for v in point]], *mask.shape)
            filled |= rle.decode(drawn["counts"].decode(), mask.shape)
        assert (filled == mask).all()
    assert edge_polygons(np.array([[False, True]]), cv2) == [[(1, 0), (1, 1), (2, 1), (2, 0)]]


def test_cvat_is_told_which_frame_has_no_mask(predictor):
    sdk = pytest.importorskip("cvat_sdk.auto_annotation.driver", exc_type=ImportError)
    with pytest.raises(DataError, match=r"a/7\.jpg: this frame has no mask"):
        DetectionFunction(predictor).detect(sdk._DetectionFunctionContextImpl(frame_name="a/7.jpg"), b"no picture")


def test_label_studio_is_answered_over_http(scene, names, predictor, mask, address):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    interface = pytest.importorskip("label_studio_sdk.label_interface", exc_type=ImportError)
    spelt = {name.upper(): name for name in predictor.names}
    config = CONFIG.format("".join(f'<Label value="{name}"/>' for name in (*spelt, "unknown to us")))
    choices = {"from_name": "what", "to_name": "img", "type": "choices", "value": {"choices": names}}
    task = {
        "id": 1,
        "data": {"photo": f"/data/upload/1/9b1deb4d-{scene.path.name}"},
        "annotations": [{"result": [choices]}],
    }
    assert ask(address, "/health")["status"] == "UP"
    version = f"clip-es-{predictor.maker.bank.source[:8]}"  # Of weights and words.
    assert ask(address, "/setup", {"project": "1", "schema": config})["model_version"] == version
    assert ask(address, "/versions") == {"versions": [version]}
    answer = ask(address, "/predict", {"tasks": [task], "label_config": config, "project": "1.1"})
    (prediction,) = answer["results"]
    assert prediction["model_version"] == version
    assert interface.LabelInterface(config=config).validate_prediction(prediction, return_errors=True) == []
    found = np.zeros_like(mask)
    for region in prediction["result"]:
        assert (region["from_name"], region["to_name"]) == ("brush", "img")
        alpha = brush.decode_rle(region["value"]["rle"]).reshape(*mask.shape, 4)[..., 3]
        found[alpha > 0] = predictor.names.index(spelt[region["value"]["brushlabels"][0]]) + 1
    told("Label Studio over HTTP", np.where(mask == 255, 255, found), mask)


def test_a_task_without_choices_is_tagged_and_one_without_picture_told(scene, predictor, address, lines):
    config = CONFIG.format("".join(f'<Label value="{name}"/>' for name in predictor.names))
    tasks = [{"data": {"photo": scene.path.name}}, {"data": {"photo": "/data/upload/1/none.jpg"}}, {"data": {}}, 7]
    results = ask(address, "/predict", {"tasks": tasks, "label_config": config})["results"]
    found = {region["value"]["brushlabels"][0] for region in results[0]["result"]}
    expected = predictor.result(scene.path).mask
    assert found == {predictor.names[k] for k in expected.class_ids if (expected.labels == k + 1).any()}
    assert results[1:] == [[], [], []]  # No predictions, so Label Studio asks for them again.
    assert "is not below the folder of the pictures" in lines[0]


def test_an_interface_without_a_brush_is_refused_with_the_remedy(address):
    with pytest.raises(DataError, match="no brush for a picture"):
        Interface.of("<View><Image name='i' value='$i'/></View>")
    code, error = refused(address, "/predict", b'{"tasks": [], "label_config": "<View"}')
    assert code == 400
    assert "not well-formed XML" in error


def test_x_anylabeling_is_answered_over_http(scene, names, predictor, mask, address):
    cv2 = pytest.importorskip("cv2")
    about = ask(address, "/v1/models")["data"]["clip-es"]
    assert {widget["name"] for widget in about["widgets"]} >= {"button_run", "edit_text", "button_send"}
    assert ask(address, "/v1/models/clip-es/info")["data"]["model_id"] == "clip-es"
    picture = "data:image/jpeg;base64," + base64.b64encode(scene.path.read_bytes()).decode()
    params = {"text_prompt": ", ".join(names), "conf_threshold": 0.0}
    answer = ask(address, "/v1/predict", {"model": "clip-es", "image": picture, "params": params})
    assert answer["success"]
    found = np.zeros_like(mask)
    for shape in answer["data"]["shapes"]:
        assert (shape["shape_type"], shape["points"][0]) == ("polygon", shape["points"][-1])
        assert 0 <= shape["score"] <= 1
        one = cv2.fillPoly(np.zeros_like(mask), [np.array(shape["points"], dtype=np.int32)], 1)
        found[one > 0] = predictor.names.index(shape["label"]) + 1
    differ = (np.where(mask == 255, 255, found) != mask).sum()
    sys.stdout.write(f"X-AnyLabeling over HTTP: {mask.size} pixels, {differ} differ\n")
    assert differ <= 2 * len(answer["data"]["shapes"])  # Parts of one or two pixels are no polygons.


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"model": "other", "image": ""}, "MODEL_NOT_FOUND"),
        ({"model": "clip-es"}, "INVALID_IMAGE"),
        ({"model": "clip-es", "image": "data:image/png;base64,###"}, "INVALID_IMAGE"),
        ({"model": "clip-es", "image": "AAAA"}, "INFERENCE_ERROR"),
        ({"model": "clip-es", "image": "AAAA", "params": {"text_prompt": "unicorn"}}, "INFERENCE_ERROR"),
    ],
)
def test_x_anylabeling_is_told_what_is_wrong(asked, code, address, lines):
    answer = ask(address, "/v1/predict", asked)
    assert (answer["success"], answer["error"]["code"]) == (False, code)
    # X-AnyLabeling 4.2 takes the answer for an empty one, and would remove what is drawn.
    assert answer["data"] == {"shapes": [], "description": "", "replace": False}
    assert lines == [f"X-AnyLabeling: {answer['error']['message']}"]


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [("/nothing", None, 404), ("/predict", b"{", 400), ("/predict", b"[]", 400), ("/predict", b"[" * 50_000, 400)],
)
def test_a_request_that_is_none_gets_a_status_and_the_server_goes_on(path, data, status, address):
    assert refused(address, path, data)[0] == status
    assert ask(address, "/health")["status"] == "UP"


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n{}",
        b"DELETE /predict HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    ],
)
def test_bytes_that_are_no_request_are_refused_as_json(sent, address, lines, capfd):
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as made:
        made.sendall(sent)
        answer = b""
        while piece := made.recv(65536):
            answer += piece
    status, _, body = answer.partition(b"\r\n\r\n")
    assert status.startswith(b"HTTP/1.1 4") or status.startswith(b"HTTP/1.1 5")
    assert json.loads(body)["error"]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert ask(address, "/health")["status"] == "UP"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("told", [{"Host": "elsewhere.invalid"}, {"Origin": "http://elsewhere.invalid"}, {"Host": "["}])
def test_no_web_page_may_ask(told, address):
    with pytest.raises(HTTPError) as caught:
        urlopen(Request(f"{address}/v1/models", headers=told), timeout=60)
    with caught.value as answer:
        assert answer.code == 421
    port = address.rpartition(":")[2]
    with urlopen(Request(f"{address}/v1/models", headers={"Host": f"localhost:{port}"}), timeout=60) as answer:
        assert answer.status == 200


def test_who_hangs_up_is_no_fault(address, capfd):
    host, _, port = address.removeprefix("http://").partition(":")
    for sent in (b"", b"POST /predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", b"GET /v1/models HTTP/1.1\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=30) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # Closing resets.
            made.sendall(sent)
    assert ask(address, "/health")["status"] == "UP"
    assert capfd.readouterr().err == ""


def test_many_ask_at_once_and_each_gets_its_own_answer(scene, names, predictor, mask, address):
    picture = base64.b64encode(scene.path.read_bytes()).decode()
    asked = [{"model": "clip-es", "image": picture, "params": {"text_prompt": name}} for name in names * 4]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: ask(address, "/v1/predict", one), asked))
    for one, answer in zip(asked, answers, strict=True):
        assert {shape["label"] for shape in answer["data"]["shapes"]} <= {one["params"]["text_prompt"]}
        assert answer == answers[asked.index(one)]


def test_a_server_that_closes_waits_for_the_picture_in_work_and_begins_no_other(scene, predictor):
    begun, on = threading.Event(), threading.Event()
    slow = Predictor(predictor.maker)
    made = {"model": "clip-es", "image": base64.b64encode(scene.path.read_bytes()).decode()}

    class Maker:
        """The maker, which begins a picture only when the test says so."""

        vocabulary = predictor.maker.vocabulary

        def __call__(self, *asked):
            begun.set()
            assert on.wait(60)
            return predictor.maker(*asked)

    slow.maker = Maker()  # type: ignore[assignment]
    with ThreadPoolExecutor(2) as pool:
        with server(RemoteServer(slow).routes, port=0) as running:
            where = f"http://127.0.0.1:{running.server_address[1]}"
            thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            first = pool.submit(ask, where, "/v1/predict", made)
            assert begun.wait(60)
            second = pool.submit(ask, where, "/v1/predict", made)
            until_waiting(running, 2)
            running.shutdown()
            slow.stop()
            threading.Timer(0.2, on.set).start()
            assert not first.done()
        # Closed: both have been answered, the first with its picture.
        assert first.result(60)["success"]
        assert second.result(60)["error"]["message"] == "the server is being stopped"
    thread.join()


def until_waiting(running, count: int) -> None:
    end = time.monotonic() + 60
    while running._answering < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_address_that_is_taken_or_is_none_is_told(address, capsys):
    port = address.rpartition(":")[2]
    for words in (["--port", port], ["--port", "0", "--host", "elsewhere.invalid"], ["--port", "70000"]):
        assert main(["serve", "--weights", "scenes", "--vocabulary", "scenes", *words]) == 2
        assert "cannot listen there" in capsys.readouterr().err


def test_sigterm_while_a_picture_is_in_work_ends_the_command_with_its_exit_code(scene):
    code = "import sys; from clip_es.pipelines.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", "--weights", "scenes", "--vocabulary", "scenes", "--port", "0"]
    asked = {"model": "clip-es", "image": base64.b64encode(scene.path.read_bytes()).decode()}
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
        ThreadPoolExecutor(8) as pool,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        while "Listening on" not in line:
            assert line, "the server has ended"
            line = process.stdout.readline()
        address = line.split()[2]
        answers = [pool.submit(ask, address, "/v1/predict", asked) for _ in range(8)]
        next(as_completed(answers, timeout=120))
        process.send_signal(signal.SIGTERM)
        rest, code = process.stdout.read(), process.wait(60)
        assert (code, "terminate called" in rest) == (130, False)
