"""Run a supervisor over small programs in place of the engine and the front ends.

`python -m helpers.supervised '{"engine": PROGRAM, "front-end": PROGRAM, ...constants}'`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lanewise.processes import supervisor
from lanewise.processes.arguments import ServeArguments
from lanewise.settings.server import ServerSettings

PRELUDE = """
import os, signal, sys, time
role = sys.argv[1]
def tell(event):
    fd = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{role} {event} {os.getpid()} {time.monotonic()}\\n".encode())
    os.close(fd)
def end(number, frame):
    tell("stopped")
    sys.exit(0)
def until_stopped():
    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    tell("ready")
    while True:
        signal.pause()
tell("started")
"""


def main() -> int:
    given = json.loads(sys.argv[1])
    programs = {"engine": given.pop("engine"), "front-end": given.pop("front-end")}
    events, grace_s = given.pop("events"), given.pop("drain_grace_s", 5.0)
    for name, value in given.items():
        assert hasattr(supervisor, name)
        setattr(supervisor, name, value)
    settings = ServerSettings(Path(), "127.0.0.1", 0, 0, frontends=2, drain_grace_s=grace_s)
    watched = supervisor.Supervisor(ServeArguments(settings, "json", "info"))
    for child in watched._children:
        role = "engine" if child.role == "engine" else "front-end"
        arguments = ["-S", "-E", "-c", PRELUDE + programs[role], role, events]
        child.command = lambda arguments=arguments: [sys.executable, *arguments]
    return watched.run()


if __name__ == "__main__":
    sys.exit(main())
