"""`lanewise bench`: loads a server and shows what came of it."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lanewise.bench.figures import ALL, LoadFigures, figures_of
from lanewise.bench.fleet import TICK_S, Fleet, Outcome, Timing
from lanewise.bench.loads import Load, Payload, Target
from lanewise.bench.mix import parse_rows, parse_shapes, resolve
from lanewise.bench.payloads import build_payloads
from lanewise.bench.plot import can_draw, draw
from lanewise.bench.report import COLUMNS, Run, as_json, as_markdown, cells_of
from lanewise.cli.main import FILE, POSITIVE, REQUESTS, Address
from lanewise.cli.tables import open_console
from lanewise.clock import NS_PER_MS
from lanewise.cores import usable_cores
from lanewise.errors import ConfigError
from lanewise.model.tensors import DType, TensorSpec
from lanewise_client import Client, ServingError, Unsupported

METADATA_TIMEOUT_S = 10.0
MAX_PROCESSES = 8
"""By default: enough to keep a front end of as many processes busy."""

DEFAULT_CONCURRENCIES = (1, 8, 32)
SEED = 0


def _numbers(kind: type[float]) -> Callable[..., list[float] | None]:
    """Make a callback that reads positive numbers with commas between them: 1,8,32."""

    def read(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:  # noqa: ANN401
        if text is None:
            return None
        try:
            numbers = [kind(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if not numbers or not all(0 < number < float("inf") for number in numbers):
            raise click.BadParameter(f"'{text}' is not a list of positive numbers, such as 1,8,32")
        return numbers

    return read


def _times(_context: click.Context, _option: click.Parameter, text: str) -> float:
    """Read a number of 1 or more, with or without an x: 10x."""
    try:
        number = float(text.removesuffix("x"))
    except ValueError:
        number = 0.0
    if not 1 <= number < float("inf"):
        raise click.BadParameter(f"'{text}' is not a number of 1 or more, such as 10x")
    return number


@dataclass(frozen=True, slots=True)
class Arguments:
    """The options of the command; those that were left out are None or empty."""

    address: str
    model: str | None
    version: str
    concurrency: Sequence[int] | None
    rate: Sequence[float] | None
    burst: float
    rows: str | None
    shapes: Sequence[str]
    zeros: bool
    timeout_ms: float | None
    duration_s: float
    warmup_s: float
    grace_s: float
    processes: int | None
    channels: int
    report: Path | None

    @property
    def timing(self) -> Timing:
        return Timing(self.warmup_s, self.duration_s, self.grace_s)


@click.command("bench")
@click.argument("address", metavar="HOST:PORT", type=Address())
@click.option("--model", help="Left out: the only one of the server.")
@click.option("--model-version", "version", default="", help="Left out: the server's choice.")
@click.option(
    "--concurrency",
    callback=_numbers(int),
    metavar="N,...",
    help="Closed loops: requests in flight at all times, one load after the other. 1,8,32 if "
    "there is no --rate either.",
)
@click.option(
    "--rate",
    callback=_numbers(float),
    metavar="N,...",
    help="Open loops: requests a second, sent when due whether or not others were answered.",
)
@click.option(
    "--burst",
    callback=_times,
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
    type=POSITIVE,
    help="Deadline of each request, from when it is due.",
)
@click.option("--duration-s", type=POSITIVE, default=10.0)
@click.option("--warmup-s", type=click.FloatRange(min=0), default=2.0, help="Does not count.")
@click.option(
    "--grace-s",
    type=click.FloatRange(min=0),
    default=10.0,
    help="How long answers are waited for at the end of each load.",
)
@click.option(
    "--processes",
    type=REQUESTS,
    help="Of the client. Left out: half the cores, 8 at most.",
)
@click.option("--channels", type=REQUESTS, default=1, help="Of each process.")
@click.option(
    "--report",
    type=FILE,
    help="File, .md or .json; a plot comes beside it with the extra `plots`.",
)
def command(**options: Any) -> None:  # noqa: ANN401 - the fields of Arguments
    """Load the KServe v2 server at HOST:PORT and tell throughput and latencies.

    Exits with 1 if no request was answered.
    """
    sys.exit(0 if run(Arguments(**options), open_console()) else 1)


def run(arguments: Arguments, console: Console) -> bool:
    """Load the server and print what came of it; tell whether any request was answered.

    Raises:
        ConfigError: the arguments contradict the model or each other, or a file cannot be
            written.
        lanewise_client.ServingError: the server does not tell of its model.
    """
    if arguments.report is not None:
        _require_writable(arguments.report)
    loads = _loads(arguments)
    server, model, payloads = _prepare(arguments)
    processes = arguments.processes or default_processes(loads)
    target = Target(
        arguments.address,
        payloads,
        channels=arguments.channels,
        timeout_ns=_ns(arguments.timeout_ms),
        seed=SEED,
    )
    console.print(f"{server}, model {model}, {processes} client processes", highlight=False)
    with Fleet(target, processes) as fleet, _display(payloads, console) as show:
        done: list[LoadFigures] = []
        for load in loads:
            outcome = fleet.run(load, arguments.timing, lambda so_far: show(done, so_far))
            done.append(figures_of(outcome, payloads))
            show(done, None)
    _tell_problems(done, console)
    if arguments.report is not None:
        whole = Run(
            command=shlex.join(["lanewise", *sys.argv[1:]]),
            date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            address=arguments.address,
            server=server,
            model=model,
            payloads=payloads,
            timeout_ms=arguments.timeout_ms,
            timing=arguments.timing,
            processes=processes,
            channels=arguments.channels,
            loads=tuple(done),
        )
        _write(whole, arguments.report, console)
    return any(figures.total.answered for figures in done)


def default_processes(loads: Sequence[Load]) -> int:
    """Choose how many processes suit the cores this one may run on, and the loads."""
    cores = usable_cores()
    # One answers several thousand requests a second; beside the server more only disturb it.
    useful = max(MAX_PROCESSES if load.rate is not None else load.concurrency for load in loads)
    return max(1, min(cores // 2, MAX_PROCESSES, useful))


def _loads(arguments: Arguments) -> list[Load]:
    rates = arguments.rate or ()
    if arguments.burst > 1 and not rates:
        raise ConfigError("--burst is for open loops: give --rate as well")
    closed = arguments.concurrency or (() if rates else DEFAULT_CONCURRENCIES)
    return [Load(concurrency=each) for each in closed] + [
        Load(rate=rate, burst=arguments.burst) for rate in rates
    ]


def _ns(ms: float | None) -> int | None:
    return None if ms is None else round(ms * NS_PER_MS)


def _prepare(arguments: Arguments) -> tuple[str, str, tuple[Payload, ...]]:
    """Read the metadata of the server and the model, and build the requests."""
    rows = parse_rows(arguments.rows) if arguments.rows is not None else ()
    shapes = parse_shapes(arguments.shapes)
    with Client(arguments.address, timeout_s=METADATA_TIMEOUT_S) as client:
        server = _describe(client)
        model = arguments.model or _only_model(client)
        metadata = client.model_metadata(model, arguments.version)
    try:
        declared = [
            TensorSpec(tensor.name, DType(tensor.datatype), tuple(tensor.shape))
            for tensor in metadata.inputs
        ]
    except ValueError as error:
        raise ConfigError(
            f"the server declares an input of a datatype unknown here: {error}"
        ) from error
    payloads = build_payloads(
        model,
        arguments.version,
        resolve(declared, shapes),
        rows,
        random=not arguments.zeros,
        seed=SEED,
    )
    return server, model, payloads


def _describe(client: Client) -> str:
    try:
        metadata = client.server_metadata()
    except Unsupported:
        return "a server that does not tell its name"
    return f"{metadata.name} {metadata.version}".strip()


def _only_model(client: Client) -> str:
    try:
        names = sorted({model.name for model in client.models()})
    except ServingError as error:
        raise ConfigError(
            f"--model NAME is needed: the server does not list its models ({error.message})"
        ) from error
    if len(names) != 1:
        listed = ", ".join(f"'{name}'" for name in names) or "none"
        raise ConfigError(f"--model NAME is needed: the server's models are {listed}")
    return names[0]


Show = Callable[[Sequence[LoadFigures], Outcome | None], None]


@contextmanager
def _display(payloads: Sequence[Payload], console: Console) -> Iterator[Show]:
    """Show a table that grows on a terminal, else a line for each load and the table at last."""
    latest: list[LoadFigures] = []
    if not console.is_terminal:

        def tell(done: Sequence[LoadFigures], so_far: Outcome | None) -> None:
            latest[:] = done
            if so_far is None:
                console.print(_line(done[-1]), highlight=False)

        yield tell
        if latest:
            console.print(_table(latest))
        return
    with Live(console=console, auto_refresh=False) as live:

        def draw_table(done: Sequence[LoadFigures], so_far: Outcome | None) -> None:
            running = [] if so_far is None else [figures_of(_elapsed(so_far), payloads)]
            live.update(Group(_table([*done, *running]), _progress(so_far)), refresh=True)

        yield draw_table


def _elapsed(outcome: Outcome) -> Outcome:
    """Get the outcome as if the measurement were over, so that its rates are those so far."""
    return replace(outcome, seconds=_measured_s(outcome) or outcome.seconds)


def _measured_s(outcome: Outcome) -> float:
    return min(outcome.seconds, len(outcome.course) * TICK_S)


def _progress(outcome: Outcome | None) -> Text:
    if outcome is None:
        return Text("")
    return Text(f"{outcome.load.name}: {_measured_s(outcome):.1f} of {outcome.seconds:g} s")


def _line(figures: LoadFigures) -> str:
    total = figures.total
    pairs = zip(COLUMNS, cells_of(total), strict=True)
    return f"{figures.load}: {', '.join(f'{n} {v}' for n, v in pairs)}, failed {total.failed}"


def _table(loads: Sequence[LoadFigures]) -> Table:
    kinds = [kind for load in loads for kind in load.kinds]
    left_out = set()
    if all(kind.good_per_s == kind.answered_per_s for kind in kinds):
        left_out.add("good/s")
    if all(kind.rows_per_s == kind.answered_per_s for kind in kinds):
        left_out.add("rows/s")
    if all(kind.kind == ALL for kind in kinds):
        left_out.add("requests")
    names = ("load", "requests", *COLUMNS, "failed")
    table = Table()
    for name in names:
        if name not in left_out:
            is_text = name in {"load", "requests"}
            table.add_column(name, justify="left" if is_text else "right", no_wrap=is_text)
    for load in loads:
        for kind in load.kinds:
            cells = (load.load, kind.kind, *cells_of(kind), str(kind.failed))
            pairs = zip(names, cells, strict=True)
            table.add_row(*(cell for name, cell in pairs if name not in left_out))
    return table


def _tell_problems(loads: Sequence[LoadFigures], console: Console) -> None:
    for load in loads:
        for label, count in load.total.failures.items():
            text = load.examples.get(label, "")
            console.print(f"{load.load}: {count} x {label}: {text}", highlight=False, markup=False)
        for warning in load.warnings:
            console.print(f"{load.load}: {warning}", style="bold yellow", highlight=False)


def _require_writable(file: Path) -> None:
    """Fail before the run, which may take long, if the report could not be written after it."""
    if file.suffix not in {".md", ".json"}:
        raise ConfigError(f"--report {file}: must end in .md or .json")
    if not file.parent.is_dir():
        raise ConfigError(f"--report {file}: {file.parent} is not a folder")


def _write(run: Run, file: Path, console: Console) -> None:
    picture = file.with_suffix(".svg") if can_draw() else None
    if picture is not None:
        draw(run.loads, picture)
    if file.suffix == ".json":
        text = json.dumps(as_json(run), indent=1) + "\n"
    else:
        text = as_markdown(run, picture.name if picture is not None else None)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--report {file}: cannot be written: {error.strerror}") from error
    plots = f" and {picture}" if picture is not None else "; for plots install 'lanewise[plots]'"
    console.print(f"report: {file}{plots}", highlight=False, markup=False)
