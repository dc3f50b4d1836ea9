#!/usr/bin/env python3
"""Requests per second that a bare grpc.aio echo server reaches: the floor under the real server.

Three subcommands:

  serve   a grpc.aio unary echo server (generic handler, no protobuf), pinned to one core
  load    a closed-loop grpc.aio client, pinned to another core
  run     starts both for every configuration, interleaved, and prints the medians

A configuration is a Python interpreter (and so a grpcio version), an event loop and the server's
environment variables. The client is the same in every measurement, so only the server varies.

A configuration is written as fields separated by "|":

  NAME|PYTHON|asyncio or uvloop[|VARIABLE=VALUE]...

Variables in PYTHON (for example "$ENVS/grpcio-1.85.1/bin/python") are expanded when the server
is started; the recorded command keeps them as they were written.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import pathlib
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

METHOD = "/lanewise.bench.Echo/Call"
PAYLOAD_BYTES = 9408
REPLY_BYTES = 40
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# grpcio reads these when it is imported; none may reach a process that did not ask for it.
GRPC_VARIABLES = ("GRPC_EXPERIMENTS", "GRPC_POLL_STRATEGY", "GRPC_VERBOSITY", "GRPC_TRACE")

# The table's columns with the number of decimals.
COLUMNS = (("rps", 0), ("rps_relative", 2), ("p99_ms", 2), ("server_cpu_us_per_request", 0))


def pin(core: int) -> None:
    """This process and its later threads confined to one core; a negative core means no limit."""
    if core >= 0:
        os.sched_setaffinity(0, {core})


def run_loop(main: Coroutine[Any, Any, None], loop: str) -> None:
    """The coroutine run to its end on an asyncio or a uvloop event loop."""
    if loop == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    else:
        asyncio.run(main)


def process_cpu_seconds(pid: int) -> float:
    """User plus system CPU seconds that a process has used, all its threads together."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def thread_cpu_seconds() -> dict[str, float]:
    """CPU seconds of this process by thread name, largest first."""
    seconds: dict[str, float] = {}
    main = os.getpid()
    for task in pathlib.Path("/proc/self/task").iterdir():
        try:
            head, _, tail = (task / "stat").read_text().rpartition(")")
        except OSError:
            continue
        name = head.partition("(")[2]
        if int(task.name) == main:
            name = "main"
        fields = tail.split()
        used = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
        seconds[name] = round(seconds.get(name, 0.0) + used, 2)
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def machine_busy_seconds() -> float:
    """CPU seconds all cores of the machine have spent busy since boot, stolen time included."""
    values = [int(v) for v in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = values[:8]
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND


# --- serve ---------------------------------------------------------------------------------------


async def serve(reply_bytes: int) -> None:
    """An echo server until SIGTERM; prints its port and versions, then its CPU time by thread."""
    import grpc
    import grpc.aio

    reply = b"r" * reply_bytes

    async def call(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return reply or request

    service, _, method = METHOD[1:].rpartition("/")
    handler = grpc.method_handlers_generic_handler(
        service, {method: grpc.unary_unary_rpc_method_handler(call)}
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    hello = {"port": port, "grpcio": grpc.__version__, "python": platform.python_version()}
    hello["loop"] = type(asyncio.get_running_loop()).__module__.split(".")[0]
    print(json.dumps(hello), flush=True)
    await stopping.wait()
    threads = thread_cpu_seconds()
    began = time.perf_counter()
    await server.stop(1.0)
    print(
        json.dumps({"threads": threads, "stop_s": round(time.perf_counter() - began, 3)}),
        flush=True,
    )


# --- load ----------------------------------------------------------------------------------------


def percentile(ordered: list[float], share: float) -> float:
    """The nearest-rank percentile of an ordered list."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def measure(
    calls: list[Any], payload: bytes, concurrency: int, seconds: float
) -> list[float]:
    """Latencies in seconds of every call that a closed loop of the given size finished in time."""
    latencies: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds

    async def worker(call: Any) -> None:
        while (began := clock()) < end:
            await call(payload)
            latencies.append(clock() - began)

    await asyncio.gather(*(worker(calls[i % len(calls)]) for i in range(concurrency)))
    return latencies


async def load(options: argparse.Namespace) -> None:
    """One JSON line with a result for each concurrency."""
    import grpc
    import grpc.aio

    payload = b"p" * options.payload
    target = f"127.0.0.1:{options.port}"
    results: list[dict[str, float]] = []
    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for _ in range(options.channels):
            # A pool of its own for each channel: without it they would share one connection.
            channel = grpc.aio.insecure_channel(
                target, options=[("grpc.use_local_subchannel_pool", 1)]
            )
            await stack.enter_async_context(channel)
            calls.append(channel.unary_unary(METHOD))
        await measure(calls, payload, 8, options.warmup)
        for concurrency in options.concurrency:
            server_cpu = process_cpu_seconds(options.server_pid)
            client_cpu, busy, began = (
                time.process_time(),
                machine_busy_seconds(),
                time.perf_counter(),
            )
            latencies = sorted(await measure(calls, payload, concurrency, options.seconds))
            wall = time.perf_counter() - began
            client_cpu = time.process_time() - client_cpu
            server_cpu = process_cpu_seconds(options.server_pid) - server_cpu
            other = max(0.0, machine_busy_seconds() - busy - client_cpu - server_cpu)
            results.append(
                {
                    "concurrency": concurrency,
                    "requests": len(latencies),
                    "rps": round(len(latencies) / wall, 1),
                    "p50_ms": round(percentile(latencies, 0.50) * 1e3, 3),
                    "p99_ms": round(percentile(latencies, 0.99) * 1e3, 3),
                    "server_cpu_us_per_request": round(server_cpu / len(latencies) * 1e6, 1),
                    "server_cores": round(server_cpu / wall, 3),
                    "client_cores": round(client_cpu / wall, 3),
                    "other_cores": round(other / wall, 3),
                }
            )
    print(json.dumps({"grpcio": grpc.__version__, "results": results}), flush=True)


# --- run -----------------------------------------------------------------------------------------


@dataclass
class Configuration:
    """One server to measure, with what it said of itself and its samples by concurrency."""

    name: str
    python: str
    loop: str
    environment: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    threads: dict[str, float] = field(default_factory=dict)
    stop_s: list[float] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    samples: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    def by_repeat(self, concurrency: int, key: str) -> dict[int, float]:
        """One measured quantity at one load, by the number of the repeat."""
        return {int(s["repeat"]): s[key] for s in self.samples.get(concurrency, [])}

    @classmethod
    def parse(cls, text: str) -> Configuration:
        """The configuration written as NAME|PYTHON|LOOP[|VARIABLE=VALUE]..."""
        parts = text.split("|")
        if len(parts) < 3 or parts[2] not in ("asyncio", "uvloop"):
            raise argparse.ArgumentTypeError(f"not NAME|PYTHON|asyncio or uvloop[|X=Y]...: {text}")
        pairs = [part.partition("=") for part in parts[3:] if part]
        return cls(parts[0], parts[1], parts[2], {key: value for key, _, value in pairs})


def clean_environment(extra: dict[str, str]) -> dict[str, str]:
    """The environment without grpcio's variables, plus the given ones."""
    base = {k: v for k, v in os.environ.items() if k not in GRPC_VARIABLES}
    return base | extra


@contextlib.contextmanager
def started_server(config: Configuration, options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """The port and process id of a freshly started server of this configuration."""
    command = [os.path.expandvars(config.python), __file__, "serve", "--core", options.server_core]
    command += ["--loop", config.loop, "--reply", options.reply]
    server = subprocess.Popen(
        [str(part) for part in command],
        env=clean_environment(config.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise RuntimeError(f"{config.name}: no server: {server.communicate()[1]}")
        hello = json.loads(line)
        port = hello.pop("port")
        config.versions = hello
        yield port, server.pid
        server.send_signal(signal.SIGTERM)
        out, log = server.communicate(timeout=15)
        goodbye = json.loads(out)
        config.threads = goodbye["threads"]
        config.stop_s.append(goodbye["stop_s"])
        config.log = sorted({entry.partition("] ")[2] or entry for entry in log.splitlines()})
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def measure_once(config: Configuration, repeat: int, options: argparse.Namespace) -> str:
    """The client's grpcio version; one fresh server's samples are added to the configuration."""
    with started_server(config, options) as (port, pid):
        command = [os.path.expandvars(options.client_python), __file__, "load", "--port", port]
        command += ["--server-pid", pid, "--core", options.client_core]
        command += ["--payload", options.payload, "--channels", options.channels]
        command += ["--seconds", options.seconds, "--loop", options.client_loop]
        command += ["--concurrency", ",".join(map(str, options.concurrency))]
        finished = subprocess.run(
            [str(part) for part in command],
            env=clean_environment({}),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    answer = json.loads(finished.stdout)
    for result in answer["results"]:
        config.samples.setdefault(int(result["concurrency"]), []).append(
            result | {"repeat": repeat}
        )
    return str(answer["grpcio"])


def spread(values: Iterable[float]) -> dict[str, float]:
    """The median, the smallest and the largest of the values."""
    found = sorted(values)
    return {"median": statistics.median(found), "min": found[0], "max": found[-1]}


def summarize(config: Configuration, base: Configuration) -> list[dict[str, Any]]:
    """For each load, every measured quantity's spread and the speed relative to the base.

    The relative speed is taken within each repeat, between servers measured within minutes of
    each other, so a machine that becomes slower or faster over time disturbs it less.
    """
    rows = []
    for concurrency, samples in sorted(config.samples.items()):
        row: dict[str, Any] = {"concurrency": concurrency, "repeats": len(samples)}
        for key in samples[0]:
            if key not in ("concurrency", "requests", "repeat"):
                row[key] = spread(sample[key] for sample in samples)
        reference = base.by_repeat(concurrency, "rps")
        mine = config.by_repeat(concurrency, "rps")
        if ratios := [mine[r] / reference[r] for r in mine if r in reference]:
            row["rps_relative"] = spread(round(ratio, 3) for ratio in ratios)
        rows.append(row)
    return rows


def table(configs: list[Configuration]) -> str:
    """A Markdown table of medians with their range, one line for each configuration and load."""
    lines = [
        "| server | in flight | requests/s | relative | p99 ms | server CPU µs/request |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    by_load = sorted({load for config in configs for load in config.samples})
    for concurrency in by_load:
        for config in configs:
            rows = summarize(config, configs[0])
            row = next((r for r in rows if r["concurrency"] == concurrency), None)
            if row is None:
                continue
            cells = []
            for key, digits in COLUMNS:
                if (part := row.get(key)) is None:
                    cells.append("")
                    continue
                numbers = [f"{part[name]:.{digits}f}" for name in ("median", "min", "max")]
                cells.append(f"{numbers[0]} ({numbers[1]}–{numbers[2]})")
            lines.append(f"| {config.name} | {concurrency} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def run(options: argparse.Namespace) -> None:
    """The table printed and the results file written, after all repeats of all configurations."""
    configs: list[Configuration] = options.config
    client_version = ""
    for repeat in range(options.repeats):
        # The order rotates, so that no configuration always follows the same one.
        turn = repeat % len(configs)
        for config in configs[turn:] + configs[:turn]:
            try:
                client_version = measure_once(config, repeat, options)
            except (RuntimeError, subprocess.SubprocessError) as error:
                print(f"{config.name}: repeat {repeat + 1} failed: {error}", file=sys.stderr)
                continue
            last = [f"{samples[-1]['rps']:.0f}" for samples in config.samples.values()]
            print(
                f"{repeat + 1}/{options.repeats} {config.name}: {' '.join(last)}", file=sys.stderr
            )
    print(table(configs))
    if options.output is None:
        return
    results = [
        {
            "name": config.name,
            "loop": config.loop,
            "environment": config.environment,
            "server": config.versions,
            "server_log": config.log,
            "last_repeat_cpu_seconds_by_thread": config.threads,
            "stop_s": config.stop_s,
            "summary": summarize(config, configs[0]),
            "samples": {str(key): value for key, value in config.samples.items()},
        }
        for config in configs
    ]
    document = {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "benchmarks/transport/echo_floor.py", *sys.argv[1:]]),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": sorted({c.versions["python"] for c in configs if c.versions}),
        "grpcio": sorted({c.versions["grpcio"] for c in configs if c.versions}),
        "client": {"grpcio": client_version, "loop": options.client_loop},
        "payload_bytes": options.payload,
        "reply_bytes": options.reply or options.payload,
        "seconds_per_sample": options.seconds,
        "configurations": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def numbers(text: str) -> list[int]:
    """The whole numbers of a comma-separated list."""
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    one = commands.add_parser("serve", help="run the echo server until SIGTERM")
    one.add_argument("--core", type=int, default=0)
    one.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    one.add_argument("--reply", type=int, default=REPLY_BYTES, help="0 echoes the request")

    two = commands.add_parser("load", help="load a running echo server")
    two.add_argument("--port", type=int, required=True)
    two.add_argument("--server-pid", type=int, required=True, help="whose CPU time is reported")
    two.add_argument("--core", type=int, default=1)
    two.add_argument("--warmup", type=float, default=0.7)

    three = commands.add_parser("run", help="measure configurations, interleaved")
    three.add_argument("--config", type=Configuration.parse, action="append", required=True)
    three.add_argument("--client-python", default=sys.executable)
    three.add_argument("--client-loop", choices=("asyncio", "uvloop"), default="asyncio")
    three.add_argument("--repeats", type=int, default=5)
    three.add_argument("--server-core", type=int, default=0)
    three.add_argument("--client-core", type=int, default=1)
    three.add_argument("--reply", type=int, default=REPLY_BYTES, help="0 echoes the request")
    three.add_argument("--output", type=pathlib.Path, default=None)

    two.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    for each in (two, three):
        each.add_argument("--concurrency", type=numbers, default=[1, 8, 32])
        each.add_argument("--seconds", type=float, default=3.0)
        each.add_argument("--payload", type=int, default=PAYLOAD_BYTES)
        each.add_argument("--channels", type=int, default=1, help="connections of the client")
    return parser.parse_args()


def main() -> None:
    """The chosen subcommand run to its end."""
    options = arguments()
    if options.command == "run":
        run(options)
        return
    pin(options.core)
    job = serve(options.reply) if options.command == "serve" else load(options)
    run_loop(job, options.loop)


if __name__ == "__main__":
    main()
