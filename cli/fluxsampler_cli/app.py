"""The command line: every command with its options; what they do is in the module of their name."""

# A command imports what it needs when it runs, so that --help is fast; and a
# typer command is a function of all its options.

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fluxsampler_cli import logs, output
from fluxsampler_cli.errors import EXIT_CODES_HELP, CliError, FaultError
from fluxsampler_cli.signals import Stopped


class Format(StrEnum):
    """Of an answer."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class ManifestFormat(StrEnum):
    """Of Kubernetes objects."""

    YAML = "yaml"
    JSON = "json"


class LogFormat(StrEnum):
    """Of log lines."""

    CONSOLE = "console"
    JSON = "json"


class PictureFormat(StrEnum):
    """Of pictures."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


@dataclass(frozen=True, slots=True)
class Settings:
    """The options before the command."""

    debug: bool
    log_format: LogFormat


class OneLineErrors(TyperGroup):
    """Ends a command with one clear line and its exit code instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command and translate what it raises."""
        try:
            return super().invoke(ctx)
        except CliError as error:
            _traceback(ctx)
            output.show_error(error)
            raise typer.Exit(int(error.exit_code)) from error
        except (KeyboardInterrupt, Stopped) as error:
            output.say("interrupted; nothing of this command is left running")
            number = error.number if isinstance(error, Stopped) else 2
            raise typer.Exit(128 + number) from error
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if type(error).__module__.startswith("typer."):
                raise  # wrong usage: typer shows it
            _traceback(ctx)
            fault = FaultError(
                f"unexpected {type(error).__name__}: {error}; run again with --debug and report it"
            )
            output.show_error(fault)
            raise typer.Exit(int(fault.exit_code)) from error


def _traceback(ctx: Any) -> None:
    if isinstance(ctx.obj, Settings) and ctx.obj.debug:
        traceback.print_exc()


app = typer.Typer(
    cls=OneLineErrors,
    name="fluxsampler",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES_HELP,
)

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="YAML with one or more FluxSamplers.", show_default=False)
]
SelectOption = Annotated[
    str | None,
    typer.Option("--select", metavar="NAME", help="Which FluxSampler of a file that holds several."),
]

NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Namespace on a cluster.", show_default="the context's"),
]
ContextOption = Annotated[str | None, typer.Option(help="Context of the kubeconfig.", show_default="current")]
KubeconfigOption = Annotated[
    Path | None, typer.Option(help="Kubeconfig file.", show_default="as kubectl finds it")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        output.answer(f"fluxsampler {version('fluxsampler')}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
    log_format: Annotated[
        LogFormat, typer.Option(help="Format of log lines on standard error.")
    ] = LogFormat.CONSOLE,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """FLUX pictures from all GPUs of a machine, described by one FluxSampler file.

    Start here: [bold]fluxsampler up examples/tiny-local.yaml --detach[/bold], then
    [bold]fluxsampler generate "a red circle"[/bold], and [bold]fluxsampler down[/bold].
    """
    ctx.obj = Settings(debug, log_format)
    logs.configure(log_format.value, sys.stderr, debug=debug)


@app.command(rich_help_panel="Run")
def up(
    ctx: typer.Context,
    file: FileArgument,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the service on this machine.", show_default="the FluxSampler's"),
    ] = None,
    select: SelectOption = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready, and leave it running.")
    ] = False,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the API token, instead of FLUXSAMPLER_API_TOKEN.")
    ] = None,
) -> None:
    """Serve a FluxSampler on this machine, with a Ray of its own.

    Prints the plan and the URL, and serves until Ctrl-C. It touches no other Ray and listens on
    127.0.0.1 unless --host says otherwise. A second `up` of the same name is refused; with
    --detach, and the same file, it only reports what runs.
    """
    from fluxsampler_cli import up as command

    settings: Settings = ctx.obj
    command.up(
        command.UpOptions(
            file=file,
            name=name,
            select=select,
            port=port,
            host=host,
            detach=detach,
            token_file=token_file,
            log_format=settings.log_format.value,
        )
    )


@app.command(rich_help_panel="Run")
def down(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="What to stop; may be left out when one is up.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Stop every service of this machine.")] = False,
) -> None:
    """Stop what `up` started, and remove all it left, also after a crash.

    With nothing up it says so and succeeds.
    """
    from fluxsampler_cli import down as command

    command.down(name, everything=everything)


@app.command(rich_help_panel="Run")
def status(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which service; all of this machine when left out.")
    ] = None,
    form: Annotated[Format, typer.Option("--output", "-o", help="Format of the answer.")] = Format.TABLE,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Show what is up on this machine, or one FluxSampler of a cluster.

    A NAME that is not up on this machine, or any of --namespace, --context and --kubeconfig, asks the
    cluster by kubectl: plan, conditions, pods and last events in one view.
    """
    from fluxsampler_cli import status as command
    from fluxsampler_cli.kubectl import Kubectl

    command.status(name, form.value, Kubectl(namespace, context, kubeconfig))


@app.command(rich_help_panel="Use")
def generate(
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT", help="What to draw; - reads it from standard input.", show_default=False
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Picture to write, replaced if there. With -n: FILE-1, FILE-2 …",
            show_default="named after the prompt",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="FLUXSAMPLER_URL", help="Service to ask.", show_default="the one up on this machine"
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler",
            metavar="NAME",
            help="FluxSampler of a cluster to ask, by a port forward and with its own token.",
        ),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Namespace of --sampler.", show_default="the context's")
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels, such as 1024x768.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first picture; the next ones count up.")
    ] = None,
    number: Annotated[int, typer.Option("-n", "--number", help="How many pictures.")] = 1,
    guidance: Annotated[float | None, typer.Option(help="FLUX's distilled guidance.")] = None,
    negative: Annotated[str | None, typer.Option(help="What not to draw; twice the time.")] = None,
    true_cfg: Annotated[
        float | None, typer.Option(help="Weight of --negative.", show_default="4 with --negative")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds the whole request may take.")] = None,
    form: Annotated[
        PictureFormat | None,
        typer.Option("--format", help="Picture format.", show_default="from the name of FILE, or png"),
    ] = None,
    previews: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to save previews into.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="FLUXSAMPLER_API_TOKEN", help="API token.", show_envvar=True)
    ] = None,
    json_answer: Annotated[bool, typer.Option("--json", help="Answer with one JSON object.")] = False,
) -> None:
    """Draw a picture. What is left out is the model's own default.

    Prints where the picture is, which engine drew it, its seed and its time.
    """
    from fluxsampler_cli import generate as command
    from fluxsampler_cli.kubectl import Kubectl

    command.generate(
        command.Wish(
            prompt=prompt,
            size=size,
            steps=steps,
            seed=seed,
            number=number,
            guidance=guidance,
            negative=negative,
            true_cfg=true_cfg,
            timeout=timeout,
        ),
        command.Target(
            file=file, form=form.value if form else None, previews=previews, json_answer=json_answer
        ),
        command.Service(url, token, sampler, Kubectl(namespace, context, kubeconfig)),
    )


@app.command(rich_help_panel="Describe")
def plan(
    file: FileArgument,
    select: SelectOption = None,
    form: Annotated[Format, typer.Option("--output", "-o", help="Format of the answer.")] = Format.TABLE,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Also show the proofs and every layout not taken, with its reason."),
    ] = False,
    this_machine: Annotated[
        bool,
        typer.Option(
            "--this-machine",
            help="Plan for what this machine has, as `up` does, not for what the file and the catalogue say.",
        ),
    ] = False,
) -> None:
    """Compute layout and memory of a FluxSampler, without running anything."""
    from fluxsampler_cli import plan as command

    command.plan(file, select, form.value, explain=explain, this_machine=this_machine)


@app.command(rich_help_panel="Describe")
def render(
    file: FileArgument,
    select: SelectOption = None,
    form: Annotated[
        ManifestFormat, typer.Option("--output", "-o", help="Format of the answer.")
    ] = ManifestFormat.YAML,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Namespace of the objects.", show_default="the FluxSampler's"),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Image of the Ray pods.", show_default="fluxsampler-serve:latest")
    ] = None,
    this_machine: Annotated[
        bool,
        typer.Option(
            "--this-machine", help="Take what `hardware: Auto` leaves open from this machine, not from nodes."
        ),
    ] = False,
) -> None:
    """Print every Kubernetes object that the operator would apply, without a cluster.

    What `hardware` leaves to the nodes (gpu, gpusPerNode on CUDA) has to be written in the file, since
    there are no nodes to ask.
    """
    from fluxsampler_cli import render as command

    command.render(file, select, form.value, namespace=namespace, image=image, this_machine=this_machine)


@app.command(rich_help_panel="Describe")
def validate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE", help="YAML files, each with one or more FluxSamplers.", show_default=False
        ),
    ],
) -> None:
    """Check FluxSampler files by the rules the cluster holds, and show every problem at once."""
    from fluxsampler_cli import validate as command

    command.validate(files)


@app.command(rich_help_panel="Describe")
def crd() -> None:
    """Print the CustomResourceDefinition, for `kubectl apply -f -`."""
    from fluxsampler_api.crd import render

    sys.stdout.write(render())


@app.command(rich_help_panel="Describe")
def info(
    form: Annotated[Format, typer.Option("--output", "-o", help="Format of the answer.")] = Format.TABLE,
) -> None:
    """Show versions, devices and the links between them."""
    from fluxsampler_cli import info as command

    command.info(form.value)
