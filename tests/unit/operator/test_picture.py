from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog
from aiohttp import web

from fluxsampler_operator.observed import PictureResult
from fluxsampler_operator.picture import LAST_RETRY, PictureRequest, Pictures, draw
from fluxsampler_operator.queue import Key

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
KEY = Key("team", "one")
GOOD = PictureResult(True, "parallel", "drawn", 1.0)
BAD = PictureResult(False, "none", "HTTP 503", 1.0)
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service:
    """A gateway that answers as a test says."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Answer = ok()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        return await self.answer(request)


def ok(picture: str = PNG, engine: str = "parallel") -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [{"b64_json": picture}]}, headers={"x-fluxsampler-engine": engine})

    return answer


def says(status: int, body: Any) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return (
            web.json_response(body, status=status)
            if isinstance(body, dict)
            else web.Response(status=status, text=body)
        )

    return answer


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    app = web.Application()
    app.router.add_post("/v1/images/generations", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


def request(service: Service, **kwargs: Any) -> PictureRequest:
    return PictureRequest(
        **{"url": service.url, "prompt": "a red circle", "seed": 3, "timeout_seconds": 60.0, **kwargs}
    )


async def test_it_asks_by_prompt_and_seed_with_the_models_own_defaults(service: Service) -> None:
    result = await draw(request(service))
    assert (result.drawn, result.engine) == (True, "parallel")
    assert service.bodies == [{"prompt": "a red circle", "seed": 3, "response_format": "b64_json"}]
    assert "Authorization" not in service.headers[0]


async def test_a_picture_of_megabytes_comes_in_many_pieces(service: Service) -> None:
    """More than sockets and clients hold at once, as of any picture of FLUX's usual size."""
    service.answer = ok(base64.b64encode(base64.b64decode(PNG) + bytes(3 << 20)).decode())
    assert (await draw(request(service))).drawn


async def test_an_answer_without_an_end_is_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxsampler_operator.picture.LARGEST_ANSWER", 2 << 20)
    service.answer = ok(base64.b64encode(base64.b64decode(PNG) + bytes(3 << 20)).decode())
    result = await draw(request(service))
    assert not result.drawn
    assert "larger than 2 MiB" in result.message


async def test_the_fallback_is_named(service: Service) -> None:
    service.answer = ok(engine="fallback")
    assert (await draw(request(service))).engine == "fallback"


async def test_a_token_is_shown_to_the_service_and_to_nobody_else(service: Service) -> None:
    service.answer = says(401, {"error": {"message": "the token is wrong"}})
    with structlog.testing.capture_logs() as logs:
        result = await draw(request(service, token="hidden-token"))
    assert service.headers[0]["Authorization"] == "Bearer hidden-token"
    assert "hidden-token" not in repr(request(service, token="hidden-token")) + repr(result) + repr(logs)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (says(503, {"error": {"message": "starting"}}), "HTTP 503: starting"),
        (says(500, "a page of HTML"), "HTTP 500: a page of HTML"),
        (says(200, "no JSON"), "no picture"),
        (says(200, {"data": []}), "no picture"),
        (says(200, {"data": [{"b64_json": None}]}), "no picture"),
        (ok("not base64 at all!"), "no picture"),
        (ok(base64.b64encode(b"GIF89a" + bytes(20)).decode()), "not a PNG"),
        (ok(engine="none"), "no engine"),
    ],
)
async def test_anything_else_is_no_picture_and_says_what_came(
    service: Service, answer: Answer, words: str
) -> None:
    service.answer = answer
    result = await draw(request(service))
    assert (result.drawn, result.engine) == (False, "none")
    assert words in result.message


async def test_nobody_there(service: Service) -> None:
    result = await draw(request(service, url="http://127.0.0.1:1"))
    assert not result.drawn
    assert "cannot be reached" in result.message


async def test_a_service_that_hangs_is_given_up(service: Service) -> None:
    hangs = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await hangs.wait()
        return web.Response()

    service.answer = hang
    result = await draw(request(service, timeout_seconds=0.5))
    hangs.set()
    assert not result.drawn
    assert "no answer within" in result.message


class Painter:
    def __init__(self) -> None:
        self.asked = 0
        self.result = GOOD
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, _: PictureRequest) -> PictureResult:
        self.asked += 1
        await self.open.wait()
        return self.result


class Studio:
    """Pictures with a painter and a clock of the test's."""

    def __init__(self) -> None:
        self.painter, self.time = Painter(), 0.0
        self.changed: list[Key] = []
        self.pictures = Pictures(self.changed.append, ask=self.painter, clock=lambda: self.time)

    async def look(
        self, form: str = "a", key: Key = KEY, *, engines: str = "", parallel: bool = True
    ) -> PictureResult | None:
        asked = PictureRequest("http://x", "p", 0, 1.0)
        result, _ = self.pictures.look(key, form, asked, engines=engines, parallel=parallel)
        for _turn in range(4):
            await asyncio.sleep(0)
        return result


@pytest.fixture
async def studio() -> AsyncIterator[Studio]:
    made = Studio()
    yield made
    await made.pictures.close()


async def test_one_drawing_for_a_form_however_often_it_is_looked_at(studio: Studio) -> None:
    assert await studio.look() is None
    for _ in range(5):
        assert await studio.look() == GOOD
    assert studio.painter.asked == 1
    assert studio.changed == [KEY]


async def test_a_drawing_under_way_is_not_asked_for_again(studio: Studio) -> None:
    studio.painter.open.clear()
    for _ in range(3):
        assert await studio.look() is None
    assert studio.painter.asked == 1


async def test_another_form_asks_again_and_the_former_picture_is_no_answer(studio: Studio) -> None:
    await studio.look("a")
    studio.painter.open.clear()
    assert await studio.look("b") is None
    assert await studio.look("c") is None
    studio.painter.result = BAD
    studio.painter.open.set()
    await studio.look("c")
    assert await studio.look("c") == BAD


async def test_a_former_picture_is_known_while_the_next_one_is_drawn(studio: Studio) -> None:
    await studio.look("a", engines="these")
    studio.painter.open.clear()
    await studio.look("b", engines="these")
    assert studio.pictures.hold(KEY, "these") == GOOD


async def test_a_form_that_fails_has_no_former_picture(studio: Studio) -> None:
    studio.painter.result = BAD
    await studio.look("a")
    studio.painter.open.clear()
    await studio.look("b")
    assert studio.pictures.hold(KEY, "") is None


async def test_a_gangs_picture_does_not_stand_for_a_plan_without_one(studio: Studio) -> None:
    await studio.look("a")
    studio.painter.open.clear()
    await studio.look("b", parallel=False)
    assert studio.pictures.hold(KEY, "") is None


async def test_a_picture_of_other_engines_does_not_stand(studio: Studio) -> None:
    await studio.look("a", engines="these")
    studio.painter.open.clear()
    await studio.look("b", engines="others")
    assert studio.pictures.hold(KEY, "others") is None


async def test_a_picture_is_held_for_the_same_engines_and_drawn_anew_afterwards(studio: Studio) -> None:
    assert studio.pictures.hold(KEY, "these") is None
    await studio.look("a", engines="these")
    for _ in range(3):
        assert studio.pictures.hold(KEY, "these") == GOOD
    studio.painter.open.clear()
    assert await studio.look("a", engines="these") is None
    assert studio.painter.asked == 2
    assert studio.pictures.hold(KEY, "others") is None
    assert await studio.look("a", engines="these") is None


async def test_what_is_forgotten_is_drawn_anew_and_its_drawing_ends(studio: Studio) -> None:
    studio.painter.open.clear()
    await studio.look()
    studio.pictures.forget(KEY)
    studio.painter.open.set()
    await asyncio.sleep(0)
    assert studio.changed == []
    assert await studio.look() is None
    assert studio.painter.asked == 2


async def test_failures_are_asked_again_after_longer_and_longer(studio: Studio) -> None:
    studio.painter.result = BAD
    times = []
    await studio.look()
    for second in range(200):
        studio.time = float(second)
        before = studio.painter.asked
        await studio.look()
        if studio.painter.asked > before:
            times.append(second)
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[0] <= 6
    assert gaps[-1] <= LAST_RETRY + 1


async def test_a_picture_of_the_fallback_is_asked_for_again_where_a_gang_should_draw(studio: Studio) -> None:
    studio.painter.result = replace(GOOD, engine="fallback")
    await studio.look()
    studio.painter.result = GOOD
    found, wait = studio.pictures.look(KEY, "a", PictureRequest("http://x", "p", 0, 1.0))
    assert found is not None
    assert (found.engine, wait) == ("fallback", LAST_RETRY)
    studio.time = LAST_RETRY
    await studio.look()
    assert await studio.look() == GOOD
    studio.time = 10 * LAST_RETRY
    await studio.look()
    assert studio.painter.asked == 2


async def test_a_picture_of_the_fallback_is_enough_where_there_is_no_gang(studio: Studio) -> None:
    studio.painter.result = replace(GOOD, engine="fallback")
    await studio.look()
    studio.time = 10 * LAST_RETRY
    found, wait = studio.pictures.look(KEY, "a", PictureRequest("http://x", "p", 0, 1.0), parallel=False)
    assert found is not None
    assert (found.engine, wait, studio.painter.asked) == ("fallback", None, 1)


async def test_keys_draw_beside_each_other(studio: Studio) -> None:
    studio.painter.open.clear()
    await studio.look(key=KEY)
    await studio.look(key=Key("team", "two"))
    assert studio.painter.asked == 2
