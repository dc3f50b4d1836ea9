"""Where log lines go and how they look: one stream, one format, whoever wrote them."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_INDENT = "    "
_NOT_FACTS = ("event", "exc_info", "exception", "level", "stack", "timestamp")
"""What the console shows in a way of its own; all else of an entry is key=value."""


def configure_logging(*, format: LogFormat = "auto", level: LogLevel = "info") -> None:  # noqa: A002
    """Send every log line of the process to stderr, warnings and other libraries' lines too.

    Replaces the handlers of the root logger. A later call replaces the settings of an
    earlier one, also for loggers that exist already.

    Args:
        format: "console" for people, "json" for one object per line, "auto" for the first
            on a terminal and the second elsewhere.
        level: lines below it are dropped; those of gRPC, whose debug lines drown all
            others, below warning.
    """
    on_terminal = sys.stderr.isatty()
    as_json = format == "json" or (format == "auto" and not on_terminal)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    annotate = _annotations(time_format="iso" if as_json else "%H:%M:%S")
    console = _console(colors=on_terminal, name_loggers=threshold <= logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=annotate,
            processors=[
                ProcessorFormatter.remove_processors_meta,
                *(_json() if as_json else console),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    logging.getLogger("grpc").setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*annotate, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _annotations(time_format: str) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt=time_format, utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _json() -> list[Processor]:
    # Without the locals: they hold clients' tensors.
    tracebacks = ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(tracebacks),
        structlog.processors.JSONRenderer(),
    ]


def _console(*, colors: bool, name_loggers: bool) -> list[Processor]:
    return [
        *([] if name_loggers else [_drop_logger]),
        _ConsoleWithBlocks(colors=colors),
    ]


def _drop_logger(_: object, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    entry.pop("logger", None)
    return entry


class _ConsoleWithBlocks:
    """One line for an entry and below it, indented, the values that have several lines.

    What a client sent can thus never look like an entry of its own.
    """

    def __init__(self, *, colors: bool) -> None:
        self._render_line = structlog.dev.ConsoleRenderer(
            0,  # columns to pad the event to
            colors=colors,
            exception_formatter=structlog.dev.plain_traceback,
            sort_keys=False,
            pad_level=False,
        )

    def __call__(self, logger: Any, method: str, entry: MutableMapping[str, Any]) -> str:  # noqa: ANN401
        texts = {
            key: value
            for key, value in entry.items()
            if key not in _NOT_FACTS and isinstance(value, str)
        }
        blocks = {key: text for key, text in texts.items() if len(text.splitlines()) > 1}
        facts = {
            key: _printable(texts[key]) if key in texts else value
            for key, value in entry.items()
            if key not in blocks
        }
        line = self._render_line(logger, method, facts)
        return "\n".join([line, *(_block(key, text) for key, text in blocks.items())])


def _block(key: str, text: str) -> str:
    lines = f"{key}: {text}".splitlines()
    return "\n".join(_INDENT + _printable(line) for line in lines)


def _printable(text: str) -> str:
    """Write control characters as escapes: they could move the cursor or change colours."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
