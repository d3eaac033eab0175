"""What the image builder hands to mmdebstrap and pip, without running either."""

from __future__ import annotations

import configparser
import tomllib
from pathlib import Path

import pytest
from tools.cluster import image
from tools.cluster.errors import BuildFailed, CannotRun
from tools.cluster.image import BASE_PACKAGES, PROJECT, SUITE, ImageBuilder, base_command
from tools.cluster.pip_inputs import PipInputs


def config_of(inputs: PipInputs) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    parser.read_string(inputs.config())
    return dict(parser["global"])


def test_pip_variables_win_over_files() -> None:
    listed = "global.index-url='https://files.example/simple'\n:env:.index-url='https://env.example/simple'\n"
    assert PipInputs.parse(listed, {}).settings == {"index-url": "https://env.example/simple"}
    reordered = "\n".join(reversed(listed.splitlines()))
    assert PipInputs.parse(reordered, {}).settings == {"index-url": "https://env.example/simple"}


def test_pip_settings_that_name_this_machine_stay_outside() -> None:
    listed = ":env:.cache-dir='/somewhere'\nglobal.target='/elsewhere'\nglobal.timeout='60'\ndownload.retries='9'\n"
    assert PipInputs.parse(listed, {}).settings == {"timeout": "60"}


def test_certificates_come_from_pip_or_the_usual_variables(tmp_path: Path) -> None:
    own, usual = tmp_path / "own.pem", tmp_path / "usual.pem"
    own.touch()
    usual.touch()
    assert PipInputs.parse(f"global.cert={str(own)!r}", {"SSL_CERT_FILE": str(usual)}).certificates == own
    found = PipInputs.parse("", {"SSL_CERT_FILE": str(tmp_path / "absent"), "REQUESTS_CA_BUNDLE": str(usual)})
    assert found.certificates == usual
    # The path inside the build, never the one here.
    assert config_of(found) == {"cert": "/run/secrets/ca"}
    assert config_of(PipInputs.parse("", {})) == {}


def test_folders_of_wheels_are_mounted_and_links_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "torch-1-py3-none-any.whl").touch()
    links = f"{tmp_path} https://links.example/page {tmp_path / 'absent'}"
    inputs = PipInputs.parse(f":env:.find-links={links!r}", {})
    assert inputs.wheels == (tmp_path,)
    assert config_of(inputs) == {"find-links": "https://links.example/page"}
    with inputs.options() as options:
        assert f"--build-context=wheels={tmp_path}" in options


def test_several_folders_of_wheels_become_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}-1-py3-none-any.whl").touch()
    with PipInputs(wheels=(tmp_path / "one", tmp_path / "two")).options() as options:
        (context,) = [
            option.removeprefix("--build-context=wheels=") for option in options if "wheels=" in option
        ]
        assert sorted(path.name for path in Path(context).iterdir()) == [
            "one-1-py3-none-any.whl",
            "two-1-py3-none-any.whl",
        ]
    assert not Path(context).exists()


def test_no_folder_of_wheels_no_context() -> None:
    with PipInputs().options() as options:
        assert not any(option.startswith("--build-context") for option in options)


def test_secrets_are_private_and_short_lived(tmp_path: Path) -> None:
    certificates = tmp_path / "ca.pem"
    certificates.touch()
    inputs = PipInputs({"index-url": "https://user:word@index.example/simple"}, certificates=certificates)
    with inputs.options() as options:
        (config,) = [Path(option.partition("src=")[2]) for option in options if "id=pip," in option]
        assert config.stat().st_mode & 0o777 == 0o600
        assert "user:word" in config.read_text()
        assert f"--secret=id=ca,src={certificates}" in options
        assert not any("user:word" in option for option in options)
    assert not config.exists()


def test_key_changes_with_what_could_be_installed(tmp_path: Path) -> None:
    wheel = tmp_path / "torch-1-py3-none-any.whl"
    wheel.write_bytes(b"1")
    plain, offered = PipInputs(), PipInputs(wheels=(tmp_path,))
    first = offered.key
    wheel.write_bytes(b"22")
    other_index = PipInputs({"index-url": "https://index.example/simple"})
    assert len({plain.key, first, offered.key, other_index.key}) == 4
    assert PipInputs({"timeout": "5"}).key == plain.key


def test_base_names_public_servers_only() -> None:
    command = base_command(
        Path("/made/root.tar"),
        ["deb http://mirror.internal/debian bookworm main"],
        ['Acquire::http::Proxy "http://p"'],
    )
    assert command[-3:] == [SUITE, "/made/root.tar", "deb http://mirror.internal/debian bookworm main"]
    assert '--aptopt=Acquire::http::Proxy "http://p"' in command
    hooks = [word for word in command if word.startswith("--customize-hook=")]
    assert "mirror.internal" not in "".join(hooks)
    # Debian's own list, which has to be among the files that are unpacked.
    (listed,) = [
        hook.split('"')[1].removeprefix("$1") for hook in hooks if hook.startswith("--customize-hook=cp")
    ]
    assert f"--dpkgopt=path-include={listed}" in command
    assert command.index(f"--dpkgopt=path-include={listed}") > command.index(
        "--dpkgopt=path-exclude=/usr/share/doc/*"
    )
    # The proxy was written there.
    assert any("99mmdebstrap" in hook and hook.startswith("--customize-hook=rm") for hook in hooks)
    assert {"bash", "wget", "tini"} <= set(BASE_PACKAGES)


def test_machine_sources_prefer_a_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "http://mirror.internal/debian-security/ bookworm-security main Debian\n"
        "http://mirror.internal/debian/ bookworm main Debian\n"
        "http://mirror.internal/debian/ bookworm contrib Debian\n"
        "https://other.example/ nodistro main Other\n"
    )
    monkeypatch.setattr(image, "run", lambda argv: lines)
    assert image.machine_sources() == [
        "deb http://mirror.internal/debian/ bookworm main",
        "deb http://mirror.internal/debian-security/ bookworm-security main",
    ]


def test_machine_sources_of_another_release_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "run", lambda argv: "http://mirror.internal/debian/ trixie main Debian\n")
    assert image.machine_sources() == []
    # mmdebstrap then takes its own default.
    assert base_command(Path("/made/root.tar"), [], [])[-2:] == [SUITE, "/made/root.tar"]


def test_machine_apt_options_are_ways_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        image, "run", lambda argv: 'APT::Architecture "amd64";\nAcquire::http::Proxy "http://p:3128";\n'
    )
    assert image.machine_apt_options() == ['Acquire::http::Proxy "http://p:3128"']


def test_a_failed_step_shows_the_end_of_its_log(tmp_path: Path) -> None:
    builder = ImageBuilder(tmp_path)
    with pytest.raises(BuildFailed, match=r"(?s)the reason.*logs/step\.log"):
        builder._log("step", ["sh", "-c", "echo the reason; exit 3"])
    assert (tmp_path / "logs" / "step.log").read_text() == "the reason\n"


def test_an_unknown_target_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="operator and serve"):
        ImageBuilder(tmp_path).build("gateway")


def test_names_as_pods_use_them() -> None:
    assert image.reference("serve") == "127.0.0.1:5000/fluxsampler-serve:dev"
    assert image.reference("operator", "1", "registry.example") == "registry.example/fluxsampler-operator:1"


def test_dockerfile_copies_all_that_the_wheel_holds() -> None:
    """A package that is new in pyproject.toml must reach both lists: the Dockerfile's and .dockerignore."""
    with (PROJECT / "pyproject.toml").open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    folders = {package.partition("/")[0] for package in wheel}
    dockerfile = (PROJECT / "Dockerfile").read_text()
    stage = dockerfile.partition("AS serve-code")[2].partition("FROM")[0]
    assert {folder for folder in folders if f"COPY {folder} {folder}\n" in stage} == folders
    context = (PROJECT / ".dockerignore").read_text().splitlines()
    assert folders <= {line.removeprefix("!") for line in context if line.startswith("!")}


def test_old_builds_without_a_name_are_forgotten() -> None:
    day = 24 * 3600
    listed: list[dict[str, object]] = [
        {"id": "named", "names": ["localhost/fluxsampler-serve:dev"], "created": 0},
        {"id": "replaced", "names": None, "created": 0},
        {"id": "recent", "names": None, "created": 95 * day},
    ]
    assert image.forgotten(listed, now=100.0 * day) == ["replaced"]
