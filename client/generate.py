"""Generate the blocking client from the asyncio one; with --check, tell whether it is stale.

Run as `make client`. Both have the same methods, so one of them is written, in aio.py, and the
other follows by replacing what REPLACED lists; what truly differs is in connection.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parent / "lanewise_client"
SOURCE, GENERATED = CLIENT / "aio.py", CLIENT / "client.py"

REPLACED = {
    '"""The asyncio client. The blocking one is generated from this file by `client/generate.py`."""': (
        '"""The blocking client. Generated from aio.py by `make client`; do not edit."""'
    ),
    """server for asyncio. Any number of tasks of one event loop may share it.
""": """server. Every method blocks; any number of threads may share it.
""",
    """RuntimeError once the client is closed or in another event loop. Cancelling a task
    cancels its call on the server, too.
""": """RuntimeError once the client is closed.
""",
    "Make a client of the running event loop without": "Make a client without",
    """number.
            RuntimeError: no event loop is running.
""": """number.
""",
    """in a task of the event loop, which a source that is not
        asynchronous must not block, ahead of the results, as far as the connection takes them;
        what it raises is raised after the results of the requests before it. Nothing is sent
        before the first result is asked for; closing the iterator early
        (`contextlib.aclosing`) cancels what is in flight.
""": """in a thread of gRPC's, ahead of the results, as far
        as the connection takes them; what it raises is raised after the results of the
        requests before it. Nothing is sent before the first result is asked for; closing
        the iterator early cancels what is in flight.
""",
    "AsyncIterable[InferRequest] | Iterable[InferRequest]": "Iterable[InferRequest]",
    "    AsyncIterable,\n": "",
    "AsyncIterator": "Iterator",
    "AsyncConnection": "Connection",
    "AsyncClient": "Client",
    "async def ": "def ",
    "await ": "",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
}
"""What of the asyncio client reads otherwise in the blocking one, in the order of replacement."""


def generate() -> str:
    """Get the blocking client, formatted.

    Raises:
        SystemExit: something to replace is no longer there, or asyncio is left.
    """
    text = SOURCE.read_text(encoding="utf-8")
    for asyncio, blocking in REPLACED.items():
        if asyncio not in text:
            raise SystemExit(f"{SOURCE.name} no longer has {asyncio!r}; adapt {__file__}")
        text = text.replace(asyncio, blocking)
    if "async" in text.lower():
        raise SystemExit(f"something asynchronous is left; adapt {__file__}")
    for command in (["check", "--fix", "--select", "I"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename"]
        done = subprocess.run(
            [*ruff, str(GENERATED), "-"], input=text, capture_output=True, text=True, check=True
        )
        text = done.stdout
    return text


def main() -> int:
    """Generate, or compare with what is there; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    text = generate()
    if not parser.parse_args().check:
        GENERATED.write_text(text, encoding="utf-8")
    elif not GENERATED.exists() or GENERATED.read_text(encoding="utf-8") != text:
        print(f"stale: {GENERATED}; run `make client`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
