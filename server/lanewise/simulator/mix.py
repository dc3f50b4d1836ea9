"""Mixes of requests as they are written on the command line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from lanewise.clock import NS_PER_MS
from lanewise.errors import ConfigError, ServingError
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Shape
from lanewise.scheduler.routing import Router
from lanewise.simulator.traffic import RequestKind, items_of, with_rows

KEYS = ("name", "rows", "rate", "timeout-ms", "target-ms", "priority", "pin", "items")


def parse_kind(text: str, spec: ModelSpec) -> RequestKind:
    """Read one kind of request: `rows=1,rate=300,timeout-ms=20`.

    `rows` is one number, or least-frequent-most such as 1-4-32. `items` are equally likely shapes
    of the only input, without rows where those are counted: 3x224x224|3x192x192.

    Raises:
        ConfigError: a key is unknown, given twice or missing, or its value is none.
    """
    pairs: dict[str, str] = {}
    for part in text.split(","):
        key, sign, value = part.partition("=")
        if not sign:
            raise ConfigError(f"mix '{text}': '{part}' is not KEY=VALUE; keys are {_listed()}")
        if key not in KEYS:
            raise ConfigError(f"mix '{text}': unknown key '{key}'; allowed are {_listed()}")
        if key in pairs:
            raise ConfigError(f"mix '{text}': {key} is given twice")
        pairs[key] = value
    if "rows" not in pairs:
        raise ConfigError(f"mix '{text}': rows=... is missing")
    if "items" in pairs and len(spec.inputs) > 1:
        raise ConfigError(f"mix '{text}': items=... is only for models with one input")
    try:
        return RequestKind(
            name=pairs.get("name", text),
            rows=_parse_rows(pairs["rows"]),
            rate=_parse_rate(pairs.get("rate", "1")),
            timeout_ns=_parse_ms("timeout-ms", pairs.get("timeout-ms")),
            target_ns=_parse_ms("target-ms", pairs.get("target-ms")),
            priority=_parse_priority(pairs.get("priority", "1")),
            pin=pairs.get("pin"),
            items=_parse_items(pairs["items"]) if "items" in pairs else (),
        )
    except ValueError as error:
        raise ConfigError(f"mix '{text}': {error}") from error


def require_admitted(mix: Sequence[RequestKind], spec: ModelSpec) -> None:
    """Make sure that the model can run every kind of a mix.

    Raises:
        ConfigError: it would refuse some requests whatever the load; the text is its own.
    """
    router = Router(spec)
    names = [tensor.name for tensor in spec.inputs]
    for kind in mix:
        if not spec.batching and kind.rows != (1, 1, 1):
            raise ConfigError(
                f"mix '{kind.name}': rows must be 1: model '{spec.name}' runs every request alone, "
                "whatever its shape; give shapes by items"
            )
        for items in items_of(kind, spec):
            for rows in (kind.rows[0], kind.rows[-1]):
                shapes = with_rows(items, rows, spec)
                try:
                    router.route(dict(zip(names, shapes, strict=True)), kind.pin)
                except ServingError as error:
                    raise ConfigError(f"mix '{kind.name}': {error.message}") from error


def default_mix(spec: ModelSpec) -> tuple[RequestKind, ...]:
    """Make a mix of what each profile is for, equally often."""
    return tuple(
        RequestKind(profile.name, (profile.rows.min, profile.rows.opt, profile.rows.max), 1.0)
        for profile in spec.profiles
    )


def scale(mix: Sequence[RequestKind], rate: float) -> tuple[RequestKind, ...]:
    """Change the rates of a mix in proportion, to `rate` requests a second in all."""
    factor = rate / sum(kind.rate for kind in mix)
    return tuple(dataclasses.replace(kind, rate=kind.rate * factor) for kind in mix)


def _listed() -> str:
    return ", ".join(KEYS)


def _parse_rows(text: str) -> tuple[int, int, int]:
    parts = text.split("-")
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise ValueError(f"rows is '{text}', but must be N or LEAST-FREQUENT-MOST, such as 1-4-32")
    return int(parts[0]), int(parts[len(parts) // 2]), int(parts[-1])


def _parse_rate(text: str) -> float:
    rate = _to_float(text)
    if not 0 < rate < math.inf:
        raise ValueError(f"rate is '{text}', but must be a positive number of requests a second")
    return rate


def _parse_ms(key: str, text: str | None) -> int | None:
    if text is None:
        return None
    ms = _to_float(text)
    if not 0 < ms < math.inf:
        raise ValueError(f"{key} is '{text}', but must be a positive number of milliseconds")
    return round(ms * NS_PER_MS)


def _to_float(text: str) -> float:
    """Read a number; NaN, which is in no range, where there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _parse_priority(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"priority is '{text}', but must be an integer of 1 or more")
    return int(text)


def _parse_items(text: str) -> tuple[tuple[Shape, ...], ...]:
    shapes = [item.split("x") for item in text.split("|")]
    if not all(size.isdecimal() for shape in shapes for size in shape):
        raise ValueError(
            f"items is '{text}', but must be shapes without rows, such as 3x224x224 or 128|512"
        )
    return tuple((tuple(int(size) for size in shape),) for shape in shapes)
