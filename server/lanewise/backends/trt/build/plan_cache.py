"""Keeps the plans of ONNX models, so that each is built once and not at every start.

Plans lie in `$LANEWISE_CACHE/plans`, by default `~/.cache/lanewise/plans`, never in the model
repository: that is often read-only, and shared by machines with different devices. A plan is
never changed; whatever it depends on is in its name. Delete the folder to free the space.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from lanewise import __version__
from lanewise.backends.trt.binding import Binding
from lanewise.errors import ConfigError
from lanewise.settings.model import ModelSettings

_log = structlog.get_logger(__name__)

CACHE_VARIABLE = "LANEWISE_CACHE"

# An entry of TensorProto.external_data: key "location", then the length and the path.
_EXTERNAL_FILE = re.compile(rb"\x0a\x08location\x12(?P<length>[\x01-\xff])")
_ONE_BYTE_LENGTH = 0x7F


def cached_plan(
    binding: Binding,
    onnx_file: Path,
    settings: ModelSettings,
    device: str,
    build: Callable[[], bytes],
) -> Path:
    """Get the file of the plan of `onnx_file`, built first if there is none. May block long.

    Of several processes that need the same plan at the same time one builds it and the
    others wait. A plan is either there as a whole or not at all.

    Args:
        binding: what builds and runs the plan.
        onnx_file: the model, with its weights in it or beside it.
        settings: of the model.
        device: name and compute capability of the device the plan is for.
        build: makes the content of the plan.

    Raises:
        ConfigError: the model cannot be read, the plan cannot be written; or from `build`.
    """
    key = plan_key(onnx_file, settings, builder=binding.name, device=device)
    plan = _cache_folder("plans") / f"{onnx_file.stem}-{key[:32]}.plan"
    if plan.exists():
        _log.info("plan found in the cache", model=str(onnx_file), plan=str(plan))
        return plan
    with _exclusive(plan):
        if not plan.exists():
            _log.info("plan is being built", model=str(onnx_file), plan=str(plan))
            write_atomically(plan, build())
    return plan


def plan_key(onnx_file: Path, settings: ModelSettings, *, builder: str, device: str) -> str:
    """Get a name for all that a plan depends on: 64 hexadecimal digits.

    That is the model and its weights, the shapes of the profiles in their order, how to
    build, the builder and its version, the device, and our own version, which decides what
    an input left out of a profile means. What profiles are called is not part of it.

    Raises:
        ConfigError: the model cannot be read.
    """
    profiles = settings.profiles
    facts = {
        "lanewise": __version__,
        "builder": builder,
        "device": device,
        "settings": settings.tensorrt.model_dump(include=set(settings.tensorrt.BUILD_KEYS)),
        "profiles": None
        if profiles is None
        else [entry.model_dump(include={"tensors"})["tensors"] for entry in profiles],
        "files": [_digest(file) for file in _model_files(onnx_file)],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def runtime_cache_file(plan: Path, device: str) -> Path:
    """Get where to keep the kernels that TensorRT-RTX compiles for `plan` on `device`.

    Beside the plan if that folder can be written to, otherwise in the cache.

    Raises:
        ConfigError: the cache cannot be written to either.
    """
    ending = re.sub(r"[^A-Za-z0-9.]+", "-", device).strip("-")
    if os.access(plan.parent, os.W_OK):
        return plan.with_name(f"{plan.name}.{ending}.kernels")
    place = hashlib.sha256(str(plan.resolve()).encode()).hexdigest()
    return _cache_folder("kernels") / f"{plan.stem}-{place[:32]}.{ending}.kernels"


def write_atomically(file: Path, data: bytes) -> None:
    """Write `file` atomically: no reader ever sees a part of it.

    Raises:
        ConfigError: it cannot be written.
    """
    partial = file.with_name(f".{file.name}.{secrets.token_hex(8)}.partial")
    try:
        try:
            with partial.open("xb") as content:
                content.write(data)
                content.flush()
                os.fsync(content.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error


def _cache_folder(kind: str) -> Path:
    root = os.environ.get(CACHE_VARIABLE)
    folder = Path(root) if root else Path("~/.cache/lanewise").expanduser()
    folder /= kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be created: {error.strerror}; set {CACHE_VARIABLE} to a folder "
            "that can be written to, or build the plan with: lanewise build"
        ) from error
    return folder


@contextmanager
def _exclusive(plan: Path) -> Iterator[None]:
    """Hold the lock of `plan` against other threads and processes. Its file stays behind."""
    lock = plan.with_suffix(".lock")
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise ConfigError(
            f"{lock}: cannot be written: {error.strerror}; set {CACHE_VARIABLE} to a folder "
            "that can be written to"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _model_files(onnx_file: Path) -> Iterator[Path]:
    """List the model and the files its weights are in."""
    yield onnx_file
    try:
        if onnx_file.stat().st_size == 0:
            return
        with (
            onnx_file.open("rb") as model,
            mmap.mmap(model.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            locations = {_location(data, match) for match in _EXTERNAL_FILE.finditer(data)}
    except OSError as error:
        raise _unreadable(onnx_file, error) from error
    for location in sorted(locations):
        beside = onnx_file.parent / os.fsdecode(location)
        # Bytes of a weight may look like a location by chance; a file that is missing is
        # for the parser to report.
        if location and b"\0" not in location and beside.is_file():
            yield beside


def _location(data: mmap.mmap, match: re.Match[bytes]) -> bytes:
    """Get the path that follows `match`, whose length takes one byte or, from 128 on, two."""
    length, start = match["length"][0], match.end()
    if length > _ONE_BYTE_LENGTH:
        length += (data[start] - 1) << 7
        start += 1
    return bytes(data[start : start + length])


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{file}: cannot be read: {error.strerror}")
