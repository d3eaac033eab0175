"""The HTTP application around fake engines, in this process."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from fluxsampler_serve.drawing import DrawRequest, Outcome
from fluxsampler_serve.engines.fake import FakeEngine, FakeScript
from fluxsampler_serve.engines.protocol import Progress, Sample
from fluxsampler_serve.errors import Cancelled, ServeError
from fluxsampler_serve.gateway import jobs
from fluxsampler_serve.gateway.schemas import MAX_SEED
from fluxsampler_serve.host import EngineHost
from fluxsampler_serve.picture import read_metadata
from tests.support.service import Service, app_args, running

IMAGES = "/v1/images/generations"
PROBE_SHA256 = hashlib.sha256(b"the operator's").hexdigest()


# One event loop for the module, so that most tests share one application.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Service]:
    async with running(app_args()) as started:
        yield started


@pytest.fixture
def service(shared: Service) -> Service:
    """The shared one, with nothing counted yet."""
    shared.counts.__init__()  # type: ignore[misc]  # as new
    return shared


async def draw(service: Service, **body: Any) -> httpx.Response:
    return await service.http.post(IMAGES, json={"prompt": "a red circle"} | body)


async def events(service: Service, **body: Any) -> list[dict[str, Any]]:
    response = await draw(service, stream=True, **body)
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.strip().split("\n\n")
    parsed = [json.loads(block.split("\ndata: ", 1)[1]) for block in blocks]
    assert [block.split("\n")[0] for block in blocks] == [
        f"event: {event.get('type', 'error')}" for event in parsed
    ]
    return parsed


def code(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["code"]


def unrouted(response: httpx.Response) -> str:
    """Why no engine was asked."""
    assert response.headers.get_list("x-fluxsampler-engine") == ["none"]
    (reason,) = response.headers.get_list("x-fluxsampler-engine-reason")
    return reason


async def test_the_answer_has_openais_shape_and_our_own_part(service: Service) -> None:
    response = await draw(service, seed=9, n=2)
    body = response.json()
    assert len(body["data"]) == 2
    assert body["size"] == "64x64"
    assert body["usage"]["total_tokens"] == 2 * (32 + 16)
    assert [picture["seed"] for picture in body["fluxsampler"]["pictures"]] == [9, 10]
    assert read_metadata(base64.b64decode(body["data"][1]["b64_json"]))["seed"] == "10"
    assert service.counts.answers == [("parallel", "Planned", 200)]


async def test_the_same_request_gives_the_same_bytes(service: Service) -> None:
    first, second = await draw(service, seed=1), await draw(service, seed=1)
    assert first.json()["data"] == second.json()["data"]


@pytest.mark.parametrize("replicas", [1, 2])
async def test_pictures_of_one_request_are_routed_when_a_sampler_is_free(
    replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gang's share of the time begins with the routing, and must not be spent in line behind each other."""
    args = app_args()
    assert args.parallel is not None
    args = args.model_copy(update={"parallel": args.parallel.model_copy(update={"replicas": replicas})})
    now = most = 0
    original = EngineHost.draw

    async def counted(host: EngineHost, request: DrawRequest) -> Outcome:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            return await original(host, request)
        finally:
            now -= 1

    monkeypatch.setattr(EngineHost, "draw", counted)
    async with running(args) as service:
        response = await draw(service, n=6, seed=1)
    assert [picture["seed"] for picture in response.json()["fluxsampler"]["pictures"]] == [1, 2, 3, 4, 5, 6]
    assert most == replicas


async def test_a_request_of_many_pictures_has_one_place_and_leaves_the_line_to_others() -> None:
    args = app_args(fallback=False, max_ongoing_requests=1, max_queued_requests=0)
    async with running(args, FakeScript(acts=("hang",))) as service:
        first = asyncio.create_task(draw(service, n=6))
        await drawing(service)
        assert code(await draw(service)) == (429, "queue_full")
        first.cancel()
        await asyncio.wait([first])
        assert (await draw(service, n=6)).status_code == 200


async def test_a_seed_is_picked_and_reported(service: Service) -> None:
    seeds = {(await draw(service)).json()["fluxsampler"]["seed"] for _ in range(4)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**32 for seed in seeds)


async def test_seeds_wrap_at_the_largest(service: Service) -> None:
    response = await draw(service, seed=MAX_SEED, n=2)
    assert [p["seed"] for p in response.json()["fluxsampler"]["pictures"]] == [MAX_SEED, 0]


@pytest.mark.parametrize("size", [{"size": "96x64"}, {"width": 96, "height": 64}, {"size": "auto"}])
async def test_sizes(service: Service, size: dict[str, Any]) -> None:
    body = (await draw(service, **size)).json()
    assert body["size"] == ("64x64" if size == {"size": "auto"} else "96x64")


@pytest.mark.parametrize(
    ("body", "status", "name", "param", "hint"),
    [
        ({"prompt": ""}, 422, "invalid_value", "prompt", "at least 1"),
        ({"prompt": "\t "}, 422, "invalid_value", "prompt", "say what to draw"),
        ({"prompt": "a\x07b"}, 422, "invalid_value", "prompt", r"U+0007"),
        ({"prompt": "x" * 32_001}, 422, "invalid_value", "prompt", "32000"),
        ({"prompt": 5}, 422, "invalid_value", "prompt", "string"),
        ({"steps": 0}, 422, "invalid_value", "steps", "greater than or equal to 1"),
        ({"steps": 201}, 422, "invalid_value", "steps", "at most 200"),
        ({"steps": "4"}, 422, "invalid_value", "steps", "integer"),
        ({"n": 11}, 422, "invalid_value", "n", "at most 10"),
        ({"seed": -1}, 422, "invalid_value", "seed", "0"),
        ({"seed": 2**63}, 422, "invalid_value", "seed", ""),
        ({"guidance_scale": -1}, 422, "invalid_value", "guidance_scale", "0"),
        ({"max_text_tokens": 65}, 422, "invalid_value", "max_text_tokens", "at most 64"),
        ({"timeout_seconds": 61}, 422, "invalid_value", "timeout_seconds", "at most 60"),
        ({"timeout_seconds": 0}, 422, "invalid_value", "timeout_seconds", "greater than 0"),
        ({"size": "64"}, 422, "invalid_value", "size", "pattern"),
        ({"size": "100x100"}, 422, "size_not_drawable", "size", "96x96, 96x112, 112x96"),
        ({"size": "4096x4096"}, 422, "size_not_drawable", "size", "128x128"),
        ({"width": 16, "height": 16}, 422, "size_not_drawable", "width", "64x64"),
        ({"width": 64}, 422, "invalid_value", None, "give both"),
        ({"width": 64, "height": 64, "size": "96x96"}, 422, "invalid_value", None, "give one"),
        ({"output_format": "gif"}, 422, "invalid_value", "output_format", "'png', 'jpeg' or 'webp'"),
        ({"output_compression": 50}, 422, "invalid_value", None, "jpeg or webp"),
        ({"background": "transparent"}, 422, "invalid_value", "background", "'auto' or 'opaque'"),
        ({"partial_images": 2}, 422, "invalid_value", None, "stream: true"),
        ({"stream": True, "partial_images": 4}, 422, "invalid_value", "partial_images", "3"),
        ({"true_cfg_scale": 2.0}, 422, "invalid_value", None, "needs a negative_prompt"),
        ({"negative_prompt": "blur"}, 422, "invalid_value", None, "no effect"),
        ({"model": "dall-e-3"}, 404, "model_not_found", "model", "tiny-shapes"),
        ({"guidance": 3}, 422, "unknown_field", "guidance", "`guidance_scale`"),
        ({"zzz": 3}, 422, "unknown_field", "zzz", "/openapi.json"),
    ],
)
async def test_refusals_name_the_field_and_the_fix(
    service: Service, body: dict[str, Any], status: int, name: str, param: str | None, hint: str
) -> None:
    response = await draw(service, **body)
    assert code(response) == (status, name)
    error = response.json()["error"]
    assert error["param"] == param
    assert hint in error["message"]
    assert unrouted(response) == ("NotFound" if status == 404 else "Invalid")
    assert service.counts.answers == [("none", "none", status)]


@pytest.mark.parametrize("value", ["3", '{"a": 1}'])
async def test_what_a_caller_named_is_cut_everywhere(service: Service, value: str) -> None:
    name = "x" * 900_000
    with capture_logs() as logs:
        response = await service.http.post(IMAGES, content=f'{{"prompt": "a", "{name}": {value}}}'.encode())
    assert code(response) == (422, "unknown_field")
    assert response.json()["error"]["param"] == "x" * 77 + "..."
    assert len(response.content) < 500
    assert len(str(logs)) < 500


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"prompt": "\\ud800"}', b'{"prompt": "a", "seed": 1e400}']
)
async def test_bodies_that_are_no_json_or_no_numbers(service: Service, content: bytes) -> None:
    response = await service.http.post(IMAGES, content=content)
    assert response.status_code in {400, 422}
    code(response)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_are_not_finite(service: Service, value: str) -> None:
    response = await service.http.post(
        IMAGES, content=f'{{"prompt": "a", "guidance_scale": {value}}}'.encode()
    )
    assert code(response) == (422, "invalid_value")
    assert "finite" in response.json()["error"]["message"]


async def test_openais_fields_without_effect_are_taken(service: Service) -> None:
    response = await draw(
        service,
        quality="hd",
        moderation="low",
        style="vivid",
        user="me",
        safety_identifier="me",
        background="auto",
    )
    assert response.status_code == 200


async def test_nulls_are_defaults(service: Service) -> None:
    fields = dict.fromkeys(
        (
            "model",
            "n",
            "size",
            "seed",
            "steps",
            "guidance_scale",
            "stream",
            "output_format",
            "timeout_seconds",
        )
    )
    assert (await draw(service, **fields)).status_code == 200


async def test_without_a_fallback_the_nearest_sizes_obey_the_layout() -> None:
    """80x80 is within the model's limits, and 25 tokens for two ranks."""
    async with running(app_args(fallback=False)) as service:
        response = await draw(service, size="80x80")
        assert code(response) == (422, "size_not_drawable")
        message = response.json()["error"]["message"]
        assert "25 tokens" in message
        named = message.split("nearest sizes are ")[1].split(", ")
        assert len(named) == 3
        for size in named:
            assert (await draw(service, size=size)).status_code == 200


async def test_forms_and_pictures_are_415(service: Service) -> None:
    response = await service.http.post(IMAGES, files={"image": b"x"})
    assert code(response) == (415, "unsupported_media_type")


async def test_large_bodies_are_413_with_and_without_a_length() -> None:
    async with running(app_args(max_body_bytes=2048)) as service:
        assert code(await draw(service, prompt="x" * 4096)) == (413, "body_too_large")

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"x" * 1024

        response = await service.http.post(IMAGES, content=pieces())
        assert code(response) == (413, "body_too_large")


async def test_routes_models_and_methods(service: Service) -> None:
    assert (await service.http.get("/v1/models")).json()["data"][0]["id"] == "tiny-shapes"
    assert (await service.http.get("/v1/models/tiny-shapes")).json()["object"] == "model"
    assert code(await service.http.get("/v1/models/a/b")) == (404, "model_not_found")
    assert code(await service.http.get("/v2")) == (404, "not_found")
    assert code(await service.http.get("/static/../secret")) == (404, "not_found")
    wrong = await service.http.delete("/v1/models")
    assert code(wrong) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET"
    assert unrouted(wrong) == "MethodNotAllowed"


async def test_the_token_guards_v1_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXS_TOKEN", "secret")
    async with running(app_args(auth_token_env="FXS_TOKEN")) as service:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            response = await service.http.get("/v1/models", headers=headers)
            assert code(response) == (401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
            assert unrouted(response) == "Unauthorized"
        right = await service.http.get("/v1/models", headers={"authorization": "Bearer secret"})
        assert right.status_code == 200
        for path in ("/healthz", "/readyz", "/openapi.json", "/"):
            assert (await service.http.get(path)).status_code == 200
        assert code(await service.http.get("/v1/none")) == (401, "invalid_api_key")
        document = (await service.http.get("/openapi.json")).json()
        assert document["paths"]["/v1/models"]["get"]["security"]
        assert "401" in document["paths"]["/v1/models"]["get"]["responses"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
async def test_a_schemes_case_is_free_and_a_tokens_is_not(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FXS_TOKEN", "secret")
    async with running(app_args(auth_token_env="FXS_TOKEN")) as service:
        for token, status in (("secret", 200), ("SECRET", 401), ("", 401), ("secret x", 401)):
            headers = {"authorization": f"{scheme} {token}"}
            response = await service.http.get("/v1/models", headers=headers)
            assert response.status_code == status


@pytest.mark.parametrize(
    ("token", "status"),
    [("secret", 200), ("the operator's", 200), ("wrong", 401), (PROBE_SHA256, 401), ("", 401)],
)
async def test_the_operator_has_a_token_of_its_own(
    token: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FXS_TOKEN", "secret")
    async with running(app_args(auth_token_env="FXS_TOKEN", probe_token_sha256=PROBE_SHA256)) as service:
        response = await service.http.get("/v1/models", headers={"authorization": f"Bearer {token}"})
        assert response.status_code == status
        assert (await service.http.get("/v1/models")).status_code == 401


async def test_the_operators_token_closes_nothing_that_is_open() -> None:
    async with running(app_args(probe_token_sha256=PROBE_SHA256)) as service:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer the operator's"}):
            assert (await service.http.get("/v1/models", headers=headers)).status_code == 200


async def test_who_has_no_key_is_logged_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXS_TOKEN", "secret")
    async with running(app_args(auth_token_env="FXS_TOKEN")) as service:
        with capture_logs() as logs:
            response = await draw(service)
        assert response.status_code == 401
        assert service.counts.answers == [("none", "none", 401)]
        (line,) = logs
        assert (line["event"], line["status"]) == ("request", 401)
        assert line["request_id"] == response.headers["x-request-id"]
        assert "secret" not in str(line)


async def test_a_token_that_is_wanted_and_not_set_is_an_error_at_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FXS_TOKEN", raising=False)
    with pytest.raises(ServeError, match="FXS_TOKEN"):
        async with running(app_args(auth_token_env="FXS_TOKEN")):
            pass


async def test_a_stream_has_every_step_then_the_picture(service: Service) -> None:
    received = await events(service, steps=6, partial_images=2, seed=4)
    kinds = [event["type"] for event in received]
    assert kinds[-1] == "image_generation.completed"
    assert kinds.count("image_generation.partial_image") == 2
    assert kinds.count("fluxsampler.progress") == 4
    assert [event["partial_image_index"] for event in received if "partial_image_index" in event] == [0, 1]
    plain = await draw(service, steps=6, seed=4)
    assert received[-1]["b64_json"] == plain.json()["data"][0]["b64_json"]
    assert received[-1]["fluxsampler"]["pictures"][0]["engine"] == "parallel"


async def test_a_stream_of_several_pictures(service: Service) -> None:
    received = await events(service, steps=2, n=2, seed=4)
    done = [event for event in received if event["type"] == "image_generation.completed"]
    assert [event["fluxsampler"]["index"] for event in done] == [0, 1]
    assert [event["fluxsampler"]["pictures"][0]["seed"] for event in done] == [4, 5]


async def test_what_fails_before_the_first_step_is_no_stream() -> None:
    refusing = FakeScript(afterwards="refuse")
    async with running(app_args(), refusing, refusing) as service:
        response = await draw(service, stream=True)
        assert code(response) == (422, "not_drawable")
        assert response.headers["x-fluxsampler-engine"] == "fallback"


async def test_what_fails_later_is_an_event() -> None:
    async with running(app_args(), FakeScript(afterwards="nan"), FakeScript(afterwards="noise")) as service:
        received = await events(service)
        assert received[-1]["error"]["code"] == "no_valid_picture"
        assert service.counts.answers == [("fallback", "PictureRefused", 502)]
        assert service.counts.refusals == ["parallel", "fallback"]


async def test_a_stream_goes_on_with_the_fallback() -> None:
    async with running(app_args(), FakeScript(afterwards="grey")) as service:
        received = await events(service, steps=3)
        engines = [event["engine"] for event in received if event["type"] == "fluxsampler.progress"]
        assert engines == ["parallel"] * 3 + ["fallback"] * 3
        assert received[-1]["fluxsampler"]["pictures"][0]["engine_reason"] == "PictureRefused"


async def test_a_broken_gang_is_502_without_a_fallback_and_then_503() -> None:
    async with running(app_args(fallback=False), FakeScript(afterwards="raise")) as service:
        first = await draw(service)
        assert code(first) == (502, "engine_failed")
        assert first.headers["x-fluxsampler-engine"] == "parallel"
        second = await draw(service)
        assert code(second) == (503, "not_ready")
        assert unrouted(second) == "NotReady"
        assert int(second.headers["retry-after"]) >= 1
        assert code(await service.http.get("/readyz")) == (503, "not_ready")
        assert (await service.http.get("/healthz")).status_code == 200


async def test_the_deadline_while_drawing_is_504_and_the_engine_is_free_again() -> None:
    script = FakeScript(acts=("hang",))
    async with running(app_args(fallback=False), script) as service:
        late = await draw(service, timeout_seconds=0.2)
        assert code(late) == (504, "deadline_exceeded")
        assert (await draw(service)).status_code == 200


async def test_the_deadline_while_waiting_is_504() -> None:
    args = app_args(fallback=False, max_ongoing_requests=1, max_queued_requests=1)
    async with running(args, FakeScript(acts=("hang",))) as service:
        first = asyncio.create_task(draw(service))
        await drawing(service)
        late = await draw(service, timeout_seconds=0.2)
        assert code(late) == (504, "deadline_exceeded")
        assert unrouted(late) == "DeadlineExceeded"
        first.cancel()
        await asyncio.wait([first])
        assert (await draw(service)).status_code == 200


async def test_a_full_line_is_429_with_retry_after() -> None:
    args = app_args(fallback=False, max_ongoing_requests=1, max_queued_requests=1)
    async with running(args, FakeScript(acts=("hang",))) as service:
        first = asyncio.create_task(draw(service))
        await drawing(service)
        second = asyncio.create_task(draw(service, timeout_seconds=50))
        await drawing(service, queued=1)
        third = await draw(service)
        assert code(third) == (429, "queue_full")
        assert int(third.headers["retry-after"]) >= 1
        assert unrouted(third) == "NotAdmitted"
        streamed = await draw(service, stream=True)
        assert code(streamed) == (429, "queue_full")
        first.cancel()
        assert (await second).status_code == 200


async def drawing(service: Service, queued: int = 0) -> None:
    """Wait until one request is being drawn and so many wait."""
    async with asyncio.timeout(30):
        while not service.counts.loads or service.counts.loads[-1] != (1, queued) or not engine_busy(service):
            await asyncio.sleep(0.01)


def engine_busy(service: Service) -> bool:
    return service.engines["parallel"].calls > 0


async def test_a_caller_who_leaves_is_counted_and_its_engine_freed() -> None:
    async with running(app_args(fallback=False), FakeScript(acts=("hang",))) as service:
        task = asyncio.create_task(draw(service))
        await drawing(service)
        task.cancel()
        await asyncio.wait([task])
        assert service.counts.answers == [("parallel", "Planned", 499)]
        assert (await draw(service)).status_code == 200


@pytest.mark.parametrize("way", ["cancelled", "disconnected", "broken"])
@pytest.mark.parametrize("received", [0, 3], ids=["before_the_first_event", "after_some"])
async def test_a_caller_who_leaves_a_stream_is_counted_once_and_its_engine_freed(
    way: str, received: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the server cancels the task, reports the disconnect, or fails to send."""
    script = FakeScript(step_seconds=0.02)
    async with running(app_args(fallback=False), script) as service:
        drawn = FakeEngine.sample
        ends: list[type[BaseException] | None] = []

        def sample(*args: Any) -> Sample:
            try:
                result = drawn(service.engines["parallel"], *args)
            except BaseException as error:
                ends.append(type(error))
                raise
            ends.append(None)
            return result

        monkeypatch.setattr(service.engines["parallel"], "sample", sample)
        left, sent = asyncio.Event(), 0
        asked: list[MutableMapping[str, Any]] = [
            {"type": "http.request", "body": b'{"prompt": "a", "stream": true, "steps": 200}'}
        ]

        async def receive() -> MutableMapping[str, Any]:
            if asked:
                return asked.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal sent
            if message["type"] == "http.response.body":
                sent += 1
            if sent < received:
                return
            if way == "broken":
                raise OSError("the caller is gone")
            left.set()
            await asyncio.Event().wait()

        scope = {
            "type": "http",
            "method": "POST",
            "path": IMAGES,
            "headers": [],
            "query_string": b"",
            "asgi": {"spec_version": "2.4" if way == "broken" else "2.3"},
        }
        with capture_logs() as logs:
            task = asyncio.ensure_future(service.app(scope, receive, send))
            if way == "cancelled":
                await asyncio.wait_for(left.wait(), 30)
                task.cancel()
            await asyncio.wait([task], timeout=30)
            assert task.done()
            async with asyncio.timeout(30):
                while not ends:
                    await asyncio.sleep(0.01)
        assert ends == [Cancelled]
        assert service.counts.answers == [("parallel", "Planned", 499)]
        assert [line["status"] for line in logs if line["event"] == "request"] == [499]
        assert service.counts.loads[-1] == (0, 0)
        assert service.counts.errors == 0


async def test_what_nobody_expected_is_500_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    async with running(app_args()) as service:
        monkeypatch.setattr(jobs, "resolve", explode)
        with capture_logs() as logs:
            response = await draw(service)
        (line,) = logs
        assert (line["event"], line["request_id"]) == ("unexpected_error", response.headers["x-request-id"])
        assert code(response) == (500, "internal_error")
        assert unrouted(response) == "Unexpected"
        assert "secret" not in response.text
        assert service.counts.errors == 1


async def test_an_engine_that_raises_anything_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> Sample:
        raise ZeroDivisionError("a bug in an engine")

    async with running(app_args()) as service:
        monkeypatch.setattr(service.engines["parallel"], "sample", explode)
        with capture_logs() as logs:
            response = await draw(service)
        assert logs[0]["event"] == "engine_raised"
        assert response.status_code == 200
        assert response.headers["x-fluxsampler-engine-reason"] == "GangFailed"


async def test_one_request_id_the_callers_or_a_fresh_one(service: Service) -> None:
    response = await service.http.get("/healthz", headers={"x-request-id": "mine"})
    assert response.headers.get_list("x-request-id") == ["mine"]
    odd = await service.http.get("/healthz", headers={b"x-request-id": b"\xfc\t" + b"x" * 500})
    assert odd.headers["x-request-id"].isascii()
    assert len(odd.headers["x-request-id"]) <= 128
    assert len((await service.http.get("/healthz")).headers["x-request-id"]) == 32


async def test_the_page_has_a_strict_policy_and_an_etag(service: Service) -> None:
    page = await service.http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    again = await service.http.get("/", headers={"if-none-match": page.headers["etag"]})
    assert again.status_code == 304
    script = await service.http.get("/static/app.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"


async def test_info_tells_what_a_request_may_ask_for(service: Service) -> None:
    info = (await service.http.get("/v1/info")).json()
    assert info["limits"]["max_steps"] == 200
    assert info["sizes"]["max_side"] == 128
    assert info["plan"]["layout"]["gpusPerReplica"] == 2
    assert info["engines"]["parallel"]["ready"] is True


async def test_previews_are_spread_over_the_steps() -> None:
    args = app_args()
    for steps, previews, every in ((8, 3, 2), (4, 3, 1), (28, 1, 14), (1, 3, 1), (5, 0, 0)):
        body = {"prompt": "a", "steps": steps, "stream": True, "partial_images": previews}
        job = jobs.resolve(args, jobs.parse(json.dumps(body).encode()), "id")
        assert job.draws[0].sample.preview_every == every


async def test_progress_is_picklable() -> None:
    """It crosses threads and, with a gang, processes."""
    import pickle

    assert pickle.loads(pickle.dumps(Progress(1, 2))) == Progress(1, 2)
