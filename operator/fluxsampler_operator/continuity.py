"""Does a change that is on its way leave those engines running that drew before it?

Serve says DEPLOYING of every change. It stops a replica only when what that is started with changes (code version,
actor options, placement); counts, limits and times reach living replicas by ``reconfigure``, a few at a time,
while requests go to the others or wait for milliseconds (ray 2.60: ``version.py``, ``requires_actor_restart``;
``deployment_state.py``, ``_stop_or_update_outdated_version_replicas``, ``_rollout_size``). A change of counts alone
starts and stops replicas at the end of the row, never all of them to start them anew.
"""

from __future__ import annotations

from fluxsampler_operator.observed import Json
from fluxsampler_operator.observed.serve_state import Application
from fluxsampler_operator.queue import Key


class Continuity:
    """Remembers, for each key, which engines ran last and in which generation of the RayService.

    An operator that starts anew in the middle of a change knows of nothing that goes on.
    """

    def __init__(self) -> None:
        self._running: dict[Key, tuple[str, int]] = {}
        self._documents: dict[Key, str] = {}

    def wrote(self, key: Key, rayservice: Json) -> None:
        """Note Serve's document as this operator has applied it."""
        self._documents[key] = rayservice["spec"]["serveConfigV2"]

    def interrupted(self, key: Key, rayservice: Json) -> bool:
        """Whether somebody else wrote Serve's document since; what ran before is forgotten then.

        KubeRay may hand it on before it is put right, and each of the two makes Serve start the engines anew.
        """
        own = self._documents.get(key)
        if own is None or own == rayservice["spec"].get("serveConfigV2"):
            return False
        self.forget(key)
        return True

    def goes_on(
        self, key: Key, rayservice: Json | None, app: Application, engines: str, *, head: bool, current: bool
    ) -> bool:
        """Whether a change is under way through which the engines that ran before it go on running.

        ``engines`` is a digest of what starts them, empty without a plan: then nothing is applied. ``head``: the head
        pod is ready. ``current``: Serve's words are about the RayService's present spec.
        """
        if rayservice is None or not head or not (app.running or app.changing):
            self.forget(key)
            return False
        generation = int(rayservice["metadata"].get("generation") or 0)
        if app.running and current and engines:
            self._running[key] = (engines, generation)
            return False
        ran, before = self._running.get(key, ("", 0))
        if engines and ran != engines:
            self.forget(key)
            return False
        # Without a change Serve has a reason of its own, such as an application that was taken away and comes back.
        return bool(ran) and generation > before

    def forget(self, key: Key) -> None:
        """Nothing runs any more, or the object is gone."""
        self._running.pop(key, None)
        self._documents.pop(key, None)
