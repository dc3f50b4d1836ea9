"""`lanewise build`: builds a plan, shows how far it has come and prints what came of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lanewise.backends.trt.binding import EDITIONS, Binding, TrtBackend, bind
from lanewise.backends.trt.build.arguments import (
    SHAPE_OPTIONS,
    gather_shapes,
    parse_profiles,
)
from lanewise.backends.trt.build.builder import BuiltPlan, build_plan, require_builder
from lanewise.backends.trt.build.plan_cache import write_atomically
from lanewise.backends.trt.build.progress import LoggedProgress
from lanewise.cli.main import PATH
from lanewise.cli.tables import make_table, open_console
from lanewise.clock import NS_PER_MS, SystemClock
from lanewise.errors import ConfigError
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import format_shape
from lanewise.settings.model import ModelSettings, read_model_settings, read_settings_file
from lanewise.telemetry.logs import configure_logging

COMMAND_LINE = Path("command line")
"""Named in messages as the file that profiles from options come from."""

MIB = 2**20

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class ShapeArguments:
    """What the shape options hold, one entry for each time an option is given."""

    min: Sequence[str] = ()
    opt: Sequence[str] = ()
    max: Sequence[str] = ()


class CommandWithShapes(click.Command):
    """Takes several shapes after one option: --min-shapes X:[1,3] Y:[1,8]."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse `args` with the shapes of an option joined into one."""
        return super().parse_args(ctx, gather_shapes(args))


def _shape_option(corner: str) -> Callable[[_Function], _Function]:
    return click.option(
        f"--{corner}-shapes",
        multiple=True,
        metavar="NAME:[SIZE,...] ...",
        help=f"The {corner} of a profile, by input; values for a shape tensor.",
    )


@click.command("build", cls=CommandWithShapes)
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The plan.")
@click.option("--backend", type=click.Choice(("auto", *EDITIONS)), default="auto")
@_shape_option("min")
@_shape_option("opt")
@_shape_option("max")
@click.option(
    "--settings",
    type=PATH,
    help="A model.toml with profiles. Default: the one beside MODEL.",
)
def command(  # noqa: PLR0917 - click passes options by name
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
    console = open_console()
    configure_logging(level="warning" if console.is_terminal else "info")
    build(
        model,
        output,
        backend=backend,
        shapes=ShapeArguments(min_shapes, opt_shapes, max_shapes),
        settings_file=settings,
        console=console,
    )


def build(
    onnx_file: Path,
    plan_file: Path,
    *,
    backend: str | None,
    shapes: ShapeArguments,
    settings_file: Path | None,
    console: Console,
) -> None:
    """Build the model in `onnx_file` and write its plan to `plan_file`.

    The profiles come from `shapes`, or else from `settings_file`, by default the model.toml
    beside the model; without any they follow from the model.

    Args:
        onnx_file: the model.
        plan_file: replaced if it exists, but only once the plan is complete.
        backend: "tensorrt" or "tensorrt-rtx"; None or "auto" for the one in the settings,
            or else the first that is installed and has a builder.
        shapes: profiles as in `parse_profiles`.
        settings_file: a model.toml; None for the one beside the model, if there is one.
        console: for progress and the summary.

    Raises:
        ConfigError: see `build_plan`; or the plan could not be written.
    """
    settings, source = _read_settings(onnx_file, settings_file, shapes)
    binding = _choose_binding(backend, settings)
    _require_writable(plan_file)
    clock = SystemClock()
    began_ns = clock.now_ns()
    with ThreadPoolExecutor(1) as executor, _show_progress(console) as progress:
        # In a thread, so that an interrupt reaches Python here and not in a callback of
        # TensorRT's, through which no exception may pass.
        building = executor.submit(build_plan, binding, onnx_file, settings, source, progress)
        try:
            plan = building.result()
        except BaseException:
            progress.stop()
            raise
    write_atomically(plan_file, plan.data)
    _print_summary(plan, console)
    seconds = (clock.now_ns() - began_ns) / NS_PER_MS / 1000
    console.print(
        f"{plan_file}: {len(plan.data) / MIB:.1f} MiB, built in {seconds:.1f} s by {binding.name}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


class StoppableProgress(LoggedProgress):
    """Logs the phases of a build, which can be stopped from another thread."""

    def __init__(self) -> None:
        super().__init__()
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def advance(self, phase: str, step: int) -> bool:
        return super().advance(phase, step) and not self._stopped.is_set()


class TerminalProgress(StoppableProgress):
    """Shows a bar for every phase that is under way, nested ones indented below."""

    def __init__(self, bars: Progress) -> None:
        super().__init__()
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._depth: dict[str, int] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        depth = self._depth.get(parent, 0) + 1 if parent is not None else 0
        self._depth[phase] = depth
        self._tasks[phase] = self._bars.add_task("  " * depth + phase, total=steps)

    def advance(self, phase: str, step: int) -> bool:
        if phase in self._tasks:
            self._bars.update(self._tasks[phase], completed=step + 1)
        return super().advance(phase, step)

    def finish(self, phase: str) -> None:
        if phase in self._tasks:
            self._bars.remove_task(self._tasks.pop(phase))


@contextmanager
def _show_progress(console: Console) -> Iterator[StoppableProgress]:
    if not console.is_terminal:
        yield StoppableProgress()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        yield TerminalProgress(bars)


def _read_settings(
    onnx_file: Path, settings_file: Path | None, shapes: ShapeArguments
) -> tuple[ModelSettings, Path]:
    """Get the settings with the profiles to build, and what messages name as their source."""
    if settings_file is not None:
        settings, source = read_settings_file(settings_file, ModelSettings), settings_file
    else:
        source = onnx_file.parent / "model.toml"
        settings = read_model_settings(source)
    profiles = parse_profiles(shapes.min, shapes.opt, shapes.max)
    if not profiles:
        return settings, source
    if settings_file is not None and settings.profiles is not None:
        raise ConfigError(
            f"{settings_file}: has profiles, and so has the command line; leave out either the "
            f"file or {', '.join(SHAPE_OPTIONS)}"
        )
    return settings.model_copy(update={"profiles": profiles}), COMMAND_LINE


def _choose_binding(backend: str | None, settings: ModelSettings) -> Binding:
    wanted = settings.backend if backend in {None, "auto"} else backend
    for choice in EDITIONS:
        if choice == wanted:
            return _bind_builder(choice)
    problems = []
    for choice in EDITIONS:
        try:
            return _bind_builder(choice)
        except ConfigError as error:
            problems.append(f"\n  {error}")
    raise ConfigError(f"no TensorRT that could build a plan is installed:{''.join(problems)}")


def _bind_builder(backend: TrtBackend) -> Binding:
    binding = bind(backend)
    require_builder(binding)
    return binding


def _require_writable(plan_file: Path) -> None:
    """Fail before the build, which may take long, if its result could not be written."""
    folder = plan_file.parent
    if not folder.is_dir():
        raise ConfigError(f"{plan_file}: there is no folder {folder}; create it first")
    if plan_file.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"{plan_file}: cannot be written; name a file in a folder of yours")


def _print_summary(plan: BuiltPlan, console: Console) -> None:
    tensors = make_table("", "tensor", "datatype", "shape")
    for kind, specs in (("input", plan.tensors.inputs), ("output", plan.tensors.outputs)):
        for spec in specs:
            is_shape = kind == "input" and spec.name in plan.tensors.shape_tensors
            label = "shape tensor" if is_shape else kind
            tensors.add_row(label, spec.name, spec.dtype.value, format_shape(spec.shape))
    profiles = make_table("index", "profile", "input", "min", "opt", "max")
    for index, profile in enumerate(plan.profiles):
        first = (str(index), profile.name)
        for name, limits in profile.shapes.items():
            profiles.add_row(*first, name, *_corners(limits))
            first = ("", "")
        for name, limits in profile.values.items():
            profiles.add_row(*first, f"{name} (values)", *_corners(limits))
            first = ("", "")
    console.print(tensors, profiles, sep="\n")


def _corners(limits: ShapeRange) -> tuple[str, str, str]:
    return format_shape(limits.min), format_shape(limits.opt), format_shape(limits.max)
