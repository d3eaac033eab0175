"""A kopf operator in a thread of its own, started when its kinds are served, started anew when it ends.

In a thread since an embedded kopf operator that ends cancels every task of its event loop that is younger than
itself (kopf 1.45, running.py, run_tasks): the reconciles would go with a watch. And one for each group of kinds,
since without the right to watch CRDs kopf looks only once which kinds there are.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import kopf
import structlog

from fluxsampler_operator.errors import OperatorError
from fluxsampler_operator.handlers.settings import watching_settings

_log = structlog.get_logger(__name__)

LOOK_SECONDS = 3.0
FIRST_PAUSE, LAST_PAUSE = 1.0, 10.0
# A watch that lived so long was well; what ends it then is news, and no reason for a longer pause.
WELL_SECONDS = 60.0


@dataclass
class Watcher:
    """Watches the kinds of ``registry`` in ``namespaces`` (empty: all) while ``served`` says that there are such."""

    name: str
    registry: kopf.OperatorRegistry
    namespaces: Sequence[str]
    served: Callable[[], Awaitable[bool]]
    appeared: Callable[[], None] = lambda: None
    liveness: str | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    async def run(self) -> None:
        """Watch until cancelled."""
        missing, pause = False, FIRST_PAUSE
        while True:
            while not await self._is_served():
                if not missing:
                    _log.warning("kinds are not served yet", watch=self.name)
                missing = True
                await asyncio.sleep(LOOK_SECONDS)
            missing = False
            self.appeared()
            started = time.monotonic()
            await self._in_thread()
            pause = FIRST_PAUSE if time.monotonic() - started > WELL_SECONDS else min(LAST_PAUSE, pause * 2)
            await asyncio.sleep(pause)

    async def _is_served(self) -> bool:
        try:
            return await self.served()
        except OperatorError as error:
            # Also a refusal: an API server that starts answers 401 and 403 until it has read its roles.
            _log.warning("cannot ask which kinds are served", watch=self.name, error=str(error))
            return False

    async def _in_thread(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        stop = self._stop = threading.Event()
        thread = threading.Thread(
            target=self._watch, args=(stop, loop, ended), name=f"watch {self.name}", daemon=True
        )
        thread.start()
        try:
            await ended.wait()
        finally:
            stop.set()

    def _watch(self, stop: threading.Event, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        try:
            kopf.run(
                registry=self.registry,
                settings=watching_settings(),
                standalone=True,
                clusterwide=not self.namespaces,
                namespaces=list(self.namespaces),
                stop_flag=stop,
                liveness_endpoint=self.liveness,
            )
        except Exception:  # noqa: BLE001  (a thread's end, logged with its trace; the watch starts anew)
            # A watch that the API server ended for good (the kind is gone, the right was taken): looked at anew.
            _log.exception("watch ended", watch=self.name)
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended.set)
