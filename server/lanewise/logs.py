"""Where log lines go and how they look: one stream, one format, whoever wrote them."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


def configure_logging(*, format: LogFormat = "auto", level: LogLevel = "info") -> None:  # noqa: A002
    """Send every log line of the process to stderr, warnings and other libraries' lines too.

    Replaces the handlers of the root logger. A later call replaces the settings of an
    earlier one, also for loggers that exist already.

    Args:
        format: "console" for people, "json" for one object per line, "auto" for the first
            on a terminal and the second elsewhere.
        level: lines below it are dropped.
    """
    on_terminal = sys.stderr.isatty()
    as_json = format == "json" or (format == "auto" and not on_terminal)
    annotate = _annotations()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=annotate,
            processors=[
                ProcessorFormatter.remove_processors_meta,
                *(_json() if as_json else _console(colors=on_terminal)),
            ],
        )
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*annotate, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _annotations() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _json() -> list[Processor]:
    # Without the locals: they hold clients' tensors.
    tracebacks = ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(tracebacks),
        structlog.processors.JSONRenderer(),
    ]


def _console(*, colors: bool) -> list[Processor]:
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
