"""The `lanewise` command: parses, calls, prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from lanewise import __version__
from lanewise.settings import server as config

BACKENDS = ("auto", "onnxruntime", "tensorrt", "tensorrt-rtx", "simulated")
BUILDERS = ("auto", "tensorrt", "tensorrt-rtx")
POLICIES = (
    "cost-aware",
    "first-fit",
    "one-context",
    "triton",
    "triton-as-coded",
    "tf-serving",
)
TRANSPORTS = ("aio", "edge")
FILE = click.Path(dir_okay=False, path_type=Path)
PORT = click.IntRange(0, 65535)
WIDTH_OF_PIPES = 240
"""Columns of a table that goes to a file or a pipe."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group(context_settings={"auto_envvar_prefix": "LANEWISE", "show_default": True})
@click.version_option(__version__, prog_name="lanewise")
def cli() -> None:
    """Serve TensorRT and ONNX models over gRPC, one lane per optimization profile.

    Every option can also be set in the environment: LANEWISE_SERVE_GRPC_PORT=9001.
    """


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--host", default="0.0.0.0", help="Address to listen on.")
@click.option("--grpc-port", type=PORT, default=config.DEFAULT_GRPC_PORT, help="0: any free one.")
@click.option(
    "--metrics-port",
    type=PORT,
    default=config.DEFAULT_METRICS_PORT,
    help="HTTP: /metrics, /health/live, /health/ready. 0: any free one.",
)
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="For every model, whatever its model.toml says.",
)
@click.option(
    "--frontends",
    type=click.IntRange(0, config.MOST_FRONTENDS),
    help="Processes that speak gRPC, beside one that runs the models. 0: one does it all. "
    "Left out: by the number of cores, 0 for fewer than 4.",
)
@click.option(
    "--transport",
    type=click.Choice(TRANSPORTS),
    default="aio",
    help="aio: gRPC's own library. edge: Envoy with Python inside; wants lanewise[edge].",
)
@click.option("--tls-cert", type=FILE, help="PEM file with the certificate chain, for gRPC.")
@click.option("--tls-key", type=FILE, help="PEM file with its private key.")
@click.option(
    "--max-message-mb",
    type=click.IntRange(1, 2047),
    default=config.DEFAULT_MAX_MESSAGE_MB,
    help="Largest request, in MiB (2^20 bytes).",
)
@click.option(
    "--max-queue-requests",
    type=click.IntRange(min=1),
    default=config.DEFAULT_MAX_QUEUE_REQUESTS,
    help="Requests that may wait at a time for the same profiles of a model.",
)
@click.option(
    "--shared-memory",
    type=click.Choice(["auto", "on", "off"]),
    default=config.DEFAULT_SHARED_MEMORY,
    help="Which calls may use shared memory. auto: those over loopback.",
)
@click.option(
    "--drain-grace-s",
    type=click.FloatRange(min=0),
    default=config.DEFAULT_DRAIN_GRACE_S,
    help="How long waiting requests may still run after SIGTERM.",
)
@click.option(
    "--costs",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder where what launches cost is kept for the next start, and for `simulate`.",
)
@click.option(
    "--record-traces",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for a trace of each model: shapes and times of its requests, no data.",
)
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), default="auto")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info"
)
def serve(
    log_format: str, log_level: str, frontends: int | None, transport: str, **settings: object
) -> None:
    """Serve the models at PATH: a repository folder, or one model file.

    A repository holds <model>/<version>/model.onnx, and optionally <model>/model.toml.
    """
    # grpcio 1.80 and newer read requests on threads of their own, whose hand-overs cost a
    # fifth of the throughput; read when grpc is imported (see benchmarks/transport).
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    # What goes wrong in its core reaches us as exceptions; its own lines, which are not in
    # our format, would tell it twice.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from lanewise.cli import serve as serving
    from lanewise.processes import arguments as orders

    if frontends is None:
        frontends = config.default_frontends(transport, len(os.sched_getaffinity(0)))
    server_settings = config.ServerSettings(
        frontends=frontends,
        transport=transport,
        **settings,  # type: ignore[arg-type]
    )
    order = orders.Order(server_settings, log_format, log_level)  # type: ignore[arg-type]
    sys.exit(serving.serve(order))


@cli.command()
@click.argument("target", metavar="PATH|HOST:PORT")
@click.option("--backend", type=click.Choice(BACKENDS), help="Only with PATH.")
def inspect(target: str, backend: str | None) -> None:
    """Show tensors, profiles and lanes of the models at PATH, or of a running server.

    Exits with 1 if a model cannot be served.
    """
    from rich.console import Console

    from lanewise.cli.inspect import inspect_path, inspect_server
    from lanewise.telemetry.logs import configure_logging

    configure_logging(format="console", level="warning")
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_PIPES
    is_path = Path(target).exists() or not ("://" in target or _is_address(target))
    if is_path:
        sound = inspect_path(Path(target), backend, console)
    else:
        sound = inspect_server(_require_address("HOST:PORT", target), console)
    sys.exit(0 if sound else 1)


class CommandWithShapes(click.Command):
    """Takes several shapes after one option: --min-shapes X:[1,3] Y:[1,8]."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse `args` with the shapes of an option joined into one."""
        from lanewise.backends.trt.build.arguments import gather_shapes

        return super().parse_args(ctx, gather_shapes(args))


def _shape_option(corner: str) -> Callable[[_Command], _Command]:
    return click.option(
        f"--{corner}-shapes",
        multiple=True,
        metavar="NAME:[SIZE,...] ...",
        help=f"The {corner} of a profile, by input; values for a shape tensor.",
    )


@cli.command(cls=CommandWithShapes)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The plan.")
@click.option("--backend", type=click.Choice(BUILDERS), default="auto")
@_shape_option("min")
@_shape_option("opt")
@_shape_option("max")
@click.option(
    "--settings",
    type=click.Path(path_type=Path),
    help="A model.toml with profiles. Default: the one beside MODEL.",
)
def build(  # noqa: PLR0917 - click passes options by name
    model: Path,
    output: Path,
    backend: str,
    min_shapes: Sequence[str],
    opt_shapes: Sequence[str],
    max_shapes: Sequence[str],
    settings: Path | None,
) -> None:
    """Build the TensorRT plan of MODEL, an ONNX file.

    Each triple of --min-shapes, --opt-shapes and --max-shapes makes a profile, each with
    several inputs if need be: --min-shapes X:[1,3,28,28] Y:[1,8]. An input that is left out
    keeps its static shape, with 1 for dynamic dimensions.
    """
    from rich.console import Console

    from lanewise.cli import build as building
    from lanewise.telemetry.logs import configure_logging

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_PIPES
    configure_logging(level="warning" if console.is_terminal else "info")
    building.build(
        model,
        output,
        backend=backend,
        shapes=building.ShapeArguments(min_shapes, opt_shapes, max_shapes),
        settings_file=settings,
        console=console,
    )


@cli.command()
@click.argument("model")
@click.option("--url", default=f"localhost:{config.DEFAULT_GRPC_PORT}", help="HOST:PORT.")
@click.option("--model-version", help="Left out: the highest.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="NAME=FILE.npy|NAME=SHAPE",
    help="Values from a file, or random ones of a shape such as 1,3,28,28.",
)
@click.option("--profile", help="Name or index of the only profile allowed.")
@click.option("--timeout-s", type=click.FloatRange(min=0, min_open=True), default=60.0)
@click.option(
    "--output-dir", type=click.Path(path_type=Path), help="Folder for the outputs as .npy files."
)
def infer(  # noqa: PLR0917 - click passes options by name
    model: str,
    url: str,
    model_version: str | None,
    inputs: Sequence[str],
    profile: str | None,
    timeout_s: float,
    output_dir: Path | None,
) -> None:
    """Send one request to MODEL and show its outputs and the lane that served it."""
    from rich.console import Console

    from lanewise.cli import infer as one_request

    one_request.infer(
        _require_address("--url", url),
        model,
        version=model_version or "",
        inputs=_split_inputs(inputs),
        profile=profile,
        timeout_s=timeout_s,
        save_to=output_dir,
        console=Console(soft_wrap=True),
    )


@cli.command()
@click.argument("costs", type=click.Path(path_type=Path))
@click.argument("trace", type=click.Path(path_type=Path), required=False)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(POLICIES),
    default=POLICIES[:1],
    help="Several are compared on the same traffic.",
)
@click.option(
    "--mix",
    multiple=True,
    metavar="KEY=VALUE,...",
    help="A kind of request: rows=1-4-32,rate=300,timeout-ms=20; 1 a second without rate. "
    "May be given several times.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Requests a second in all: the mix is scaled to it; without one it is equally often "
    "what each profile is for.",
)
@click.option("--duration-s", type=click.FloatRange(min=0, min_open=True), default=60.0)
@click.option(
    "--burst",
    type=click.FloatRange(min=1),
    default=1.0,
    help="Requests come in bursts of so many times the rate.",
)
@click.option("--seed", type=int, default=0)
@click.option(
    "--max-queue-requests",
    type=click.IntRange(min=1),
    default=config.DEFAULT_MAX_QUEUE_REQUESTS,
    help="As for `lanewise serve`.",
)
@click.option("--unlearned", is_flag=True, help="The scheduler begins without the costs.")
@click.option("--varied", is_flag=True, help="Launches take measured times, not their median.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the figures.")
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path),
    help="File for a picture, .svg or .png. Needs the extra `plots`.",
)
def simulate(  # noqa: PLR0917 - click passes options by name
    costs: Path,
    trace: Path | None,
    policies: Sequence[str],
    mix: Sequence[str],
    rate: float | None,
    duration_s: float,
    burst: float,
    seed: int,
    max_queue_requests: int,
    unlearned: bool,
    varied: bool,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Tell what the scheduler would make of some traffic, without a device.

    COSTS is a cost file; the requests come from TRACE, which a server recorded, or are made
    up: give --mix, --rate or both.
    """
    from rich.console import Console

    from lanewise.cli import simulate as simulating
    from lanewise.simulator.simulation import Options

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_PIPES
    simulating.run(
        costs,
        simulating.TrafficArguments(trace, mix, rate, duration_s, burst, seed),
        policies,
        Options(max_queue_requests, learned=not unlearned, varied=varied, seed=seed),
        json_file=json_file,
        plot_file=plot_file,
        console=console,
    )


class NumberList(click.ParamType):  # type: ignore[type-arg]
    """Takes positive numbers with commas between them: 1,8,32."""

    name = "numbers"

    def __init__(self, number: type[int] | type[float]) -> None:
        self._number = number

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Sequence[float]:
        """Read the numbers."""
        try:
            numbers = [self._number(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if not numbers or not all(0 < number < float("inf") for number in numbers):
            self.fail(f"'{value}' is not a list of positive numbers, such as 1,8,32", param, ctx)
        return numbers


class NumberOfTimes(click.ParamType):  # type: ignore[type-arg]
    """Takes a number of 1 or more, with or without an x: 10x."""

    name = "times"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the number."""
        try:
            number = float(str(value).removesuffix("x"))
        except ValueError:
            number = 0.0
        if not 1 <= number < float("inf"):
            self.fail(f"'{value}' is not a number of 1 or more, such as 10x", param, ctx)
        return number


@cli.command()
@click.argument("address", metavar="HOST:PORT")
@click.option("--model", help="Left out: the only one of the server.")
@click.option("--model-version", default="", help="Left out: the server's choice.")
@click.option(
    "--concurrency",
    type=NumberList(int),
    metavar="N,...",
    help="Closed loops: requests in flight at all times, one load after the other. 1,8,32 if "
    "there is no --rate either.",
)
@click.option(
    "--rate",
    type=NumberList(float),
    metavar="N,...",
    help="Open loops: requests a second, sent when due whether or not others were answered.",
)
@click.option(
    "--burst",
    type=NumberOfTimes(),
    default="1x",
    metavar="Nx",
    help="Open loops come in bursts of so many times the rate.",
)
@click.option(
    "--rows",
    metavar="ROWS[:SHARE],...",
    help="Rows of the requests, in dimension 0: 1:60%,4:35%,128:5%.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME[:DATATYPE]=SIZES",
    help="Of an input whose sizes the server leaves open: tokens=1,128. With the datatype for "
    "servers that do not tell inputs.",
)
@click.option("--zeros", is_flag=True, help="Send zeros, not random values.")
@click.option(
    "--timeout-ms",
    type=click.FloatRange(min=0, min_open=True),
    help="Deadline of each request, from when it is due.",
)
@click.option("--duration-s", type=click.FloatRange(min=0, min_open=True), default=10.0)
@click.option("--warmup-s", type=click.FloatRange(min=0), default=2.0, help="Does not count.")
@click.option(
    "--grace-s",
    type=click.FloatRange(min=0),
    default=10.0,
    help="How long answers are waited for at the end of each load.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Of the client. Left out: half the cores, 8 at most.",
)
@click.option("--channels", type=click.IntRange(min=1), default=1, help="Of each process.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File, .md or .json; a plot comes beside it with the extra `plots`.",
)
def bench(  # noqa: PLR0917 - click passes options by name
    address: str,
    model: str | None,
    model_version: str,
    concurrency: Sequence[int],
    rate: Sequence[float],
    burst: float,
    rows: str | None,
    shapes: Sequence[str],
    zeros: bool,
    timeout_ms: float | None,
    duration_s: float,
    warmup_s: float,
    grace_s: float,
    processes: int | None,
    channels: int,
    report: Path | None,
) -> None:
    """Load the KServe v2 server at HOST:PORT and tell throughput and latencies.

    Exits with 1 if no request was answered.
    """
    from rich.console import Console

    from lanewise.bench.fleet import Timing
    from lanewise.cli import bench as benching

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_PIPES
    answered = benching.run(
        benching.Arguments(
            address=_require_address("HOST:PORT", address),
            model=model,
            version=model_version,
            concurrencies=concurrency or (() if rate else (1, 8, 32)),
            rates=rate or (),
            burst=burst,
            rows=rows,
            shapes=shapes,
            zeros=zeros,
            timeout_ms=timeout_ms,
            timing=Timing(warmup_s, duration_s, grace_s),
            processes=processes,
            channels=channels,
            report=report,
        ),
        console,
    )
    sys.exit(0 if answered else 1)


def _split_inputs(texts: Sequence[str]) -> dict[str, str]:
    inputs: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise click.BadParameter(f"'{text}' is not NAME=FILE.npy or NAME=SHAPE")
        if name in inputs:
            raise click.BadParameter(f"--input {name}=... is given twice; give each input once")
        inputs[name] = value
    return inputs


def _is_address(target: str) -> bool:
    host, _, port = target.rpartition(":")
    return bool(host) and port.isdigit() and "/" not in host


def _require_address(option: str, target: str) -> str:
    if _is_address(target):
        return target
    scheme, sign, rest = target.partition("://")
    place = (rest if sign else scheme).rstrip("/")
    suggested = place if _is_address(place) else f"{place}:{config.DEFAULT_GRPC_PORT}"
    raise click.BadParameter(
        f"'{target}' is not HOST:PORT, the address of a server's gRPC port; "
        f"did you mean {suggested}?",
        param_hint=option,
    )


def main() -> None:
    """Run the command; problems with what was asked for are one message and exit status 1."""
    try:
        cli()
    except Exception as error:
        # Not before: grpc, which comes with the client, must see what `serve` sets for it.
        from lanewise.errors import ConfigError, RunnerLost
        from lanewise_client import ServingError

        if not isinstance(error, ConfigError | RunnerLost | ServingError):
            raise
        click.echo(f"lanewise: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
