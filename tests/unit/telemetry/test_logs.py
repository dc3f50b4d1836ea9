"""Everything that is logged comes out in one place and in one format."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import warnings

import pytest
import structlog

from lanewise.telemetry.logs import configure_logging

log = structlog.get_logger("lanewise.test")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def put_logging_back():
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    grpc_level = logging.getLogger("grpc").level
    with warnings.catch_warnings():
        yield
        logging.captureWarnings(False)
    root.handlers = handlers
    root.setLevel(level)
    logging.getLogger("grpc").setLevel(grpc_level)
    structlog.reset_defaults()


def test_json_is_one_object_per_line_with_an_iso_time_in_utc(capsys):
    configure_logging(format="json")

    log.info("model ready", model="digits", lanes=3)
    log.warning("queue full")

    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", first.pop("timestamp"))
    assert first == {
        "event": "model ready",
        "level": "info",
        "logger": "lanewise.test",
        "model": "digits",
        "lanes": 3,
    }
    assert (second["event"], second["level"]) == ("queue full", "warning")


def test_other_libraries_log_in_the_same_format(capsys):
    configure_logging(format="json")

    logging.getLogger("grpc").warning("%d channels", 2)

    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["logger"]) == ("2 channels", "warning", "grpc")


def test_python_warnings_are_log_lines(capsys):
    warnings.simplefilter("always")
    configure_logging(format="json")

    warnings.warn("old setting", FutureWarning, stacklevel=1)

    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "FutureWarning: old setting" in line["event"]


@pytest.mark.parametrize("get_logger", [structlog.get_logger, logging.getLogger])
def test_an_exception_is_data_in_json_and_its_variables_stay_private(capsys, get_logger):
    configure_logging(format="json")
    try:
        secret = "do not log me"
        raise ValueError("bad " + secret[:2])
    except ValueError:
        get_logger("lanewise.test").exception("it failed")

    text = capsys.readouterr().err
    line = json.loads(text)
    (error,) = line["exception"]
    assert (line["level"], error["exc_type"], error["exc_value"]) == (
        "error",
        "ValueError",
        "bad do",
    )
    assert error["frames"][-1]["filename"] == __file__
    assert "do not log me" not in text


def test_console_lines_are_for_people(capsys):
    configure_logging(format="console")

    log.info("model ready", model="digits")

    text = capsys.readouterr().err
    assert "model ready" in text
    assert "model=digits" in text
    assert "\x1b" not in text, "colours only on a terminal"


def test_a_console_line_is_short_in_utc_and_keeps_the_order_of_its_facts(capsys):
    configure_logging(format="console")

    log.info("model ready", version="1", model="digits", text="two words")

    line = capsys.readouterr().err
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d \[info\] +model ready version=1 model=digits text='two words'\n", line
    )


def test_the_logger_is_named_when_debugging(capsys):
    configure_logging(format="console", level="debug")

    log.info("model ready")

    assert "[lanewise.test]" in capsys.readouterr().err


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\u2028"])
def test_what_has_several_lines_is_indented_below_the_console_line(capsys, separator):
    configure_logging(format="console")

    log.error("model failed", reason=separator.join(["2 problems", "  first", "second"]), model="m")

    first, *block = capsys.readouterr().err.split("\n")
    assert first.endswith("model failed model=m")
    assert block == ["    reason: 2 problems", "      first", "    second", ""]


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\rb", "a\x1b[31m\nb"])
def test_what_a_client_sent_cannot_command_the_terminal(capsys, text):
    configure_logging(format="console")

    log.info("request", request_id=text)

    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert "\r" not in shown


@pytest.mark.parametrize("level", ["debug", "info"])
def test_grpcs_own_lines_are_dropped_below_warning(capsys, level):
    configure_logging(format="json", level=level)

    logging.getLogger("grpc._cython.cygrpc").info("Loaded running loop")
    logging.getLogger("grpc.aio").warning("trouble")

    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == [
        "trouble"
    ]


def test_auto_is_console_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    configure_logging()

    log.info("model ready")

    assert "\x1b[" in sys.stderr.getvalue()


def test_auto_is_json_elsewhere(capsys):
    configure_logging()

    log.info("model ready")

    assert json.loads(capsys.readouterr().err)["event"] == "model ready"


@pytest.mark.parametrize("get_logger", [structlog.get_logger, logging.getLogger])
def test_lines_below_the_level_are_dropped(capsys, get_logger):
    configure_logging(format="json", level="warning")

    get_logger("lanewise.test").info("quiet")
    get_logger("lanewise.test").warning("loud")

    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["loud"]


def test_a_later_call_replaces_the_settings_of_an_earlier_one(capsys):
    configure_logging(format="console", level="error")
    log.info("before")
    configure_logging(format="json", level="debug")

    log.debug("after")

    assert json.loads(capsys.readouterr().err)["event"] == "after"
