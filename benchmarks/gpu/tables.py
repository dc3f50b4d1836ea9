"""Results of `speed.py` as tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lanewise.bench.report import markdown_table

Result = Mapping[str, Any]

ROW_STEPS = {
    "bare_row": "a bare graph, copies from and to pinned memory, in a tight loop",
    "paused_bare_row": "the same, after 1 ms of sleep each time",
    "direct_row": "the runner called directly, in a tight loop",
    "paused_direct_row": "the same, after 1 ms of sleep each time",
    "threads_row": "the runner called on a thread of its own, awaited",
    "started_row": "the runner started, and polled in a tight loop",
    "polled_row": "the runner started on the event loop, and polled by it",
    "served_row": "submitted to the scheduler, awaited",
    "naive_row": "naive: copy, execute without a graph, copy back",
}


def speed_table(results: Sequence[Result]) -> str:
    """Each goal, and what the lanes and the naive way of each model reach."""
    measures = (_bulk, _one_row, _pairs, _memory, _other_rows)
    rows = [measure(result) for measure in measures for result in results]
    return markdown_table(("what", "goal", "model", "lanes", "the naive way"), rows)


def row_table(results: Sequence[Result]) -> str:
    """Where the latency of one row comes from: medians in microseconds."""
    rows = [
        (text, *(f"{result['medians'][step]:.0f}" for result in results))
        for step, text in ROW_STEPS.items()
    ]
    return markdown_table(("one row, microseconds", *(result["title"] for result in results)), rows)


def _bulk(result: Result) -> tuple[str, ...]:
    m = result["medians"]
    served, naive, bare = m["served_bulk"], m["naive_bulk"], m["bare_bulk"]
    return (
        "images or sequences/s at 128 rows, inputs in ordinary memory, of the bare execution loop",
        ">= 95 %",
        result["title"],
        f"{100 * served / bare:.1f} % ({served:.0f} of {bare:.0f} {result['items']}/s)",
        f"{100 * naive / bare:.1f} %",
    )


def _one_row(result: Result) -> tuple[str, ...]:
    m = result["medians"]
    served, naive, bare = m["served_row"], m["naive_row"], m["bare_row"]
    return (
        "latency of 1 row, above a bare graph with copies",
        "<= 120 us",
        result["title"],
        f"{served - bare:.0f} us ({served:.0f} against {bare:.0f})",
        f"{naive - bare:.0f} us ({naive:.0f})",
    )


def _pairs(result: Result) -> tuple[str, ...]:
    m = result["medians"]
    few, many, switching = m["two_lanes_2"], m["two_lanes_8"], m["one_switching_context"]
    return (
        "1-row and 4-row pairs/s, of one context that switches profiles",
        ">= 3 times",
        result["title"],
        f"{many / switching:.2f} times ({many:.0f}) with 8 pairs outstanding, "
        f"{few / switching:.2f} times ({few:.0f}) with 2",
        f"1 ({switching:.0f})",
    )


def _memory(result: Result) -> tuple[str, ...]:
    memory = result["memory"]
    return (
        "device memory of three lanes, of what their profiles need",
        "<= 1.1 times",
        result["title"],
        f"{memory['lanes'] / memory['profiles_need']:.3f} times ({memory['lanes'] >> 20} MiB)",
        f"{memory['naive_contexts_scratch_alone'] >> 20} MiB of scratch alone",
    )


def _other_rows(result: Result) -> tuple[str, ...]:
    m = result["medians"]
    other, warm = m["other_rows_p99"], m["warm_rows_p99"]
    return (
        "p99 of a row count no one announced, of a warm one's",
        "<= 2 times",
        result["title"],
        f"{other / warm:.2f} times ({other:.2f} against {warm:.2f} ms)",
        f"{result['first_run_of_a_cold_row_count_ms']:.0f} ms, the first time",
    )
