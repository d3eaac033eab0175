"""Fake engines that do what the prompt says, for tests of a whole service that runs elsewhere.

A prompt is words; ``parallel=hang`` or ``fallback=raise`` names an act of
:data:`~fluxsampler_serve.engines.fake.Act` for one engine (others draw), and ``note=/folder/name`` a
file that gets `.started` when an engine begins to hang and `.cancelled` when it was told to stop.
``steps=2`` reports so many steps before it hangs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fluxsampler_serve.engines.fake import Act, FakeEngine, FakeScript
from fluxsampler_serve.engines.protocol import Progress
from fluxsampler_serve.errors import Cancelled

if TYPE_CHECKING:
    from fluxsampler_api.app_args import StartArgs
    from fluxsampler_serve.engines.protocol import (
        Cancel,
        Engine,
        EngineName,
        ProgressCallback,
        Sample,
        SampleRequest,
    )


class PromptedEngine(FakeEngine):
    """Follows the prompt."""

    def sample(self, request: SampleRequest, progress: ProgressCallback, cancel: Cancel) -> Sample:
        words = dict(word.split("=", 1) for word in request.prompt.split() if "=" in word)
        act = cast("Act", words.get(self.name, "draw"))
        self.script = replace(self.script, afterwards=act)
        note = Path(words["note"]) if "note" in words else None
        if act != "hang" or note is None:
            return super().sample(request, progress, cancel)
        for step in range(int(words.get("steps", 0))):
            progress(Progress(step + 1, request.steps))
        note.with_suffix(".started").touch()
        try:
            return super().sample(request, progress, cancel)
        except Cancelled:
            note.with_suffix(".cancelled").touch()
            raise


@dataclass(frozen=True, slots=True)
class PromptedFactory:
    """An engine factory of them."""

    script: FakeScript = FakeScript()  # noqa: RUF009 (frozen)

    def __call__(self, args: StartArgs, name: EngineName) -> Engine:
        return PromptedEngine(name, self.script)
