"""How kopf behaves: it watches, and writes nothing."""

from __future__ import annotations

import kopf

from fluxsampler_operator.handlers.events import only_ours

# The server ends a watch after this time; the client gives up a little later (a half-open connection says nothing).
WATCH_SECONDS = 300
# Watches without an event for so long are opened anew; an idle stream gets a bookmark every minute.
SILENT_SECONDS = 180


def watching_settings() -> kopf.OperatorSettings:
    """Settings of a kopf operator that only watches."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 30
    settings.watching.inactivity_timeout = SILENT_SECONDS
    settings.watching.connect_timeout = 5
    settings.networking.request_timeout = 15
    settings.networking.connect_timeout = 5
    settings.queueing.exit_timeout = 1
    settings.process.ultimate_exiting_timeout = None
    # Kopf takes *its* finalizer off every object it sees. Ours exists nowhere, so other kopf operators keep theirs.
    settings.persistence.finalizer = "fluxsampler.io/no-finalizer"
    only_ours(settings)
    return settings
