from __future__ import annotations

import hashlib
import hmac

import pytest

from fluxsampler_operator.errors import Permanent
from fluxsampler_operator.manifest import Owner
from fluxsampler_operator.probe import probe_digest, probe_token
from fluxsampler_operator.settings import PREFIX, Settings


def settings(**values: str) -> Settings:
    return Settings.from_environment({PREFIX + name: value for name, value in values.items()})


def test_an_empty_environment_gives_the_defaults() -> None:
    made = settings()
    assert made.watch_namespaces == ()
    assert made.read_nodes
    assert (made.health_port, made.metrics_port) == (8080, 9090)
    assert (made.resync_seconds, made.retry_seconds) == (300.0, 300.0)
    assert settings(METRICS_PORT=" ", WATCH_NAMESPACES="") == made


def test_every_variable_is_read() -> None:
    made = settings(
        SERVE_IMAGE="registry/serve:1", IMAGE_PULL_POLICY="Always", IMAGE_PULL_SECRETS="one, two", WATCH_NAMESPACES="a,b ,,c",
        PROBE_KEY="key", RESYNC_SECONDS="60", RETRY_SECONDS="20.5", HEALTH_PORT="81", METRICS_PORT="0", LOG_LEVEL="debug", READ_NODES="true",
    )  # fmt: skip
    assert made.serve_image == "registry/serve:1"
    assert made.image_pull_policy == "Always"
    assert made.image_pull_secrets == ("one", "two")
    assert made.watch_namespaces == ("a", "b", "c")
    assert (made.probe_key, made.resync_seconds, made.retry_seconds) == (b"key", 60.0, 20.5)
    assert (made.health_port, made.metrics_port) == (81, 0)
    assert (made.log_level, made.read_nodes) == ("DEBUG", True)


def test_a_namespaced_installation_reads_no_nodes() -> None:
    assert not settings(WATCH_NAMESPACES="a").read_nodes
    assert not settings(READ_NODES="false").read_nodes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGE_PULL_POLICY", "Sometimes"), ("RESYNC_SECONDS", "soon"), ("RESYNC_SECONDS", "0"), ("RESYNC_SECONDS", "nan"),
        ("RETRY_SECONDS", "later"), ("RETRY_SECONDS", "0.5"), ("RETRY_SECONDS", "inf"),
        ("HEALTH_PORT", "eighty"), ("METRICS_PORT", "70000"), ("LOG_LEVEL", "LOUD"), ("READ_NODES", "perhaps"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(name: str, value: str) -> None:
    with pytest.raises(Permanent, match=PREFIX + name):
        settings(**{name: value})


def test_a_lease_is_named_by_namespace_and_name() -> None:
    assert settings().lease is None
    assert settings(LEASE="ns/fx").lease == ("ns", "fx")
    assert (settings().lease_seconds, settings(LEASE_SECONDS="6").lease_seconds) == (15, 6)
    for wrong in ("fx", "/fx", "ns/", "a/b/c"):
        with pytest.raises(Permanent, match=PREFIX + "LEASE is"):
            settings(LEASE=wrong)
    with pytest.raises(Permanent, match=PREFIX + "LEASE_SECONDS"):
        settings(LEASE_SECONDS="0")


def test_the_key_is_not_shown() -> None:
    assert "hidden" not in repr(settings(PROBE_KEY="hidden"))


def test_the_probe_token_is_of_one_object_and_its_digest_is_what_pods_learn() -> None:
    owner = Owner("one", "a", "u1")
    token = probe_token(b"key", owner)
    assert token == hmac.new(b"key", b"a/one/u1", hashlib.sha256).hexdigest()
    assert probe_digest(b"key", owner) == hashlib.sha256(token.encode()).hexdigest()
    others = [Owner("one", "a", "u2"), Owner("one", "b", "u1"), Owner("two", "a", "u1")]
    assert len({token, probe_token(b"other", owner), *(probe_token(b"key", other) for other in others)}) == 5
