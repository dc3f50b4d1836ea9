from __future__ import annotations

import structlog

from lanewise.backends.trt.messages import RECENT_LINES, Messages, Severity, join_reasons


def logged(entries):
    return [(each["log_level"], each["event"]) for each in entries]


def test_an_operation_gets_its_own_lines_by_severity_and_each_once():
    messages = Messages("T")
    messages.add(Severity.ERROR, "before")

    with messages.collecting() as lines:
        messages.add(Severity.ERROR, "broken\n")
        messages.add(Severity.ERROR, "broken")
        messages.add(Severity.INTERNAL_ERROR, "badly")
        messages.add(Severity.INFO, "by the way")
    messages.add(Severity.ERROR, "after")

    assert (lines.errors, lines.notes) == (("broken", "badly"), ("by the way",))


def test_operations_that_overlap_hear_each_other():
    messages = Messages("T")

    with messages.collecting() as outer:
        with messages.collecting() as inner:
            messages.add(Severity.ERROR, "both")
        messages.add(Severity.ERROR, "outer")

    assert (outer.errors, inner.errors) == (("both", "outer"), ("both",))


def test_lines_are_kept_by_severity_so_that_chatter_does_not_push_out_errors():
    messages = Messages("T")
    messages.add(Severity.ERROR, "the reason")

    for number in range(RECENT_LINES + 1):
        messages.add(Severity.VERBOSE, str(number))

    assert messages.recent(Severity.ERROR) == ("the reason",)
    assert len(messages.recent(Severity.VERBOSE)) == RECENT_LINES
    assert messages.recent(Severity.VERBOSE)[-1] == str(RECENT_LINES)


def test_lines_go_to_the_log_with_errors_left_to_whoever_collects_them():
    messages = Messages("T")

    with structlog.testing.capture_logs() as entries:
        messages.add(Severity.ERROR, "nobody collects")
        messages.add(Severity.WARNING, "careful")
        messages.add(Severity.INFO, "chatter")
        try:
            with messages.collecting():
                messages.add(Severity.ERROR, "told in the exception")
                raise LookupError
        except LookupError:
            pass

    assert logged(entries) == [
        ("error", "nobody collects"),
        ("warning", "careful"),
        ("debug", "chatter"),
    ]


def test_errors_that_did_not_fail_the_operation_are_logged_as_warnings():
    messages = Messages("T")

    with structlog.testing.capture_logs() as entries, messages.collecting():
        messages.add(Severity.ERROR, "got over it")

    assert logged(entries) == [("warning", "got over it")]


def test_reasons_are_one_text():
    assert join_reasons((), "none given") == "none given"
    assert join_reasons(("only",), "none given") == "only"
    assert join_reasons(("first", "second"), "none given") == "\n  first\n  second"
