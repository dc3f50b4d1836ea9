from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from lanewise import errors
from lanewise.rpc.refusal_log import MAX_LINES, RefusalLog
from lanewise.rpc.status import status_for


class OneWindow(asyncio.SelectorEventLoop):
    """An event loop whose timers end at once."""

    def call_later(self, delay, callback, *args, context=None):
        return super().call_later(0, callback, *args, context=context)


def events_of(refuse, *counts):
    """The events logged when as many refusals as `counts` says come in each window."""

    async def scenario():
        for count in counts:
            for _ in range(count):
                refuse()
            await asyncio.sleep(0.001)

    with capture_logs() as logs, asyncio.Runner(loop_factory=OneWindow) as runner:
        runner.run(scenario())
    return [(line["event"], line.get("count")) for line in logs]


LINE = ("request refused", None)


def test_what_is_above_the_bound_is_counted_at_the_end_of_its_window():
    log = RefusalLog()

    events = events_of(lambda: log.add({"reason": "QueueFull"}), MAX_LINES + 7, 2, MAX_LINES + 1)

    assert events == [
        *[LINE] * MAX_LINES, ("refusals left out of the log", 7),
        *[LINE] * 2,
        *[LINE] * MAX_LINES, ("refusals left out of the log", 1),
    ]  # fmt: skip


def test_refusals_of_calls_share_the_bound_whatever_their_reason():
    given = iter([errors.QueueFull("full"), errors.ModelNotFound("none")] * MAX_LINES)

    events = events_of(lambda: status_for(next(given), rpc="ModelInfer"), 2 * MAX_LINES)

    assert events == [*[LINE] * MAX_LINES, ("refusals left out of the log", MAX_LINES)]


def test_the_bound_of_a_loop_that_has_ended_does_not_hold_in_the_next():
    log = RefusalLog()

    async def refuse():
        for _ in range(MAX_LINES + 1):
            log.add({})

    with capture_logs() as logs:
        asyncio.run(refuse())
        asyncio.run(refuse())

    assert len([line for line in logs if line["event"] == "request refused"]) == 2 * MAX_LINES
