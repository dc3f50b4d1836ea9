"""Mixes of requests as they are written on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lanewise.clock import NS_PER_MS
from lanewise.errors import ConfigError
from lanewise.models import ModelSpec
from lanewise.simulator.traffic import RequestKind
from lanewise.tensors import Shape

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
        if not sign or key not in KEYS:
            raise ConfigError(f"mix '{text}': '{part}' is not KEY=VALUE with one of {_listed()}")
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
            rate=float(pairs.get("rate", "1")),
            timeout_ns=_parse_ms(pairs.get("timeout-ms")),
            target_ns=_parse_ms(pairs.get("target-ms")),
            priority=int(pairs.get("priority", "1")),
            pin=pairs.get("pin"),
            items=_parse_items(pairs["items"]) if "items" in pairs else (),
        )
    except ValueError as error:
        raise ConfigError(f"mix '{text}': {error}") from error


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
    rows = tuple(int(part) for part in text.split("-"))
    if len(rows) == 1:
        return rows[0], rows[0], rows[0]
    if len(rows) == 3:
        return rows[0], rows[1], rows[2]
    raise ValueError(f"rows is '{text}', but must be N or LEAST-FREQUENT-MOST")


def _parse_ms(text: str | None) -> int | None:
    return None if text is None else round(float(text) * NS_PER_MS)


def _parse_items(text: str) -> tuple[tuple[Shape, ...], ...]:
    return tuple((tuple(int(size) for size in item.split("x")),) for item in text.split("|"))
