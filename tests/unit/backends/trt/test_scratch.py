"""How executions that share scratch memory take turns; the memory itself needs a device."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("cuda.bindings")

from lanewise.backends.trt.scratch import Scratch


class Log:
    """Makes streams and events that write down what is asked of them."""

    def __init__(self):
        self.lines = []

    def shared(self):
        return Scratch(1, is_shared=True, make_event=lambda: "last use")

    def stream(self, name):
        return LoggedStream(name, self.lines)


class LoggedStream:
    def __init__(self, name, lines):
        self._name = name
        self._lines = lines

    def execute(self):
        self._lines.append(f"{self._name} executes")

    def wait_for(self, cuda_event):
        self._lines.append(f"{self._name} waits for {cuda_event}")

    def record(self, cuda_event):
        self._lines.append(f"{self._name} records {cuda_event}")


def test_only_another_stream_than_the_last_waits_for_the_last_use():
    log = Log()
    scratch, a, b = log.shared(), log.stream("a"), log.stream("b")
    for stream in (a, a, b, a):
        with scratch.turn(stream):
            stream.execute()
    assert log.lines == [
        "a executes",
        "a records last use",
        "a executes",
        "a records last use",
        "b waits for last use",
        "b executes",
        "b records last use",
        "a waits for last use",
        "a executes",
        "a records last use",
    ]


def test_what_failed_is_waited_for_too_since_it_may_have_begun():
    log = Log()
    scratch, a, b = log.shared(), log.stream("a"), log.stream("b")
    with pytest.raises(RuntimeError), scratch.turn(a):
        raise RuntimeError
    with scratch.turn(b):
        pass
    assert log.lines == ["a records last use", "b waits for last use", "b records last use"]


def test_memory_that_is_not_shared_costs_no_calls():
    log = Log()
    scratch = Scratch(1, make_event=log.stream)
    with scratch.turn(log.stream("a")):
        pass
    assert log.lines == []


def test_a_turn_waits_until_the_one_before_was_handed_over():
    log = Log()
    scratch, a, b = log.shared(), log.stream("a"), log.stream("b")
    is_waiting = threading.Event()

    def take_turn():
        is_waiting.set()
        with scratch.turn(b):
            b.execute()

    thread = threading.Thread(target=take_turn)
    with scratch.turn(a):
        thread.start()
        assert is_waiting.wait(10)
        a.execute()
    thread.join(10)

    assert log.lines == [
        "a executes",
        "a records last use",
        "b waits for last use",
        "b executes",
        "b records last use",
    ]
