from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from helpers.serving import REPOSITORY

pytest.importorskip("cuda.bindings")

from lanewise.backends.trt.graphs import GraphCache, GraphMiss
from lanewise.model.runner_status import GraphCounts


@dataclass
class Graph:
    nbytes: int
    is_closed: bool = False

    def close(self) -> None:
        self.is_closed = True


def test_the_least_recently_used_graph_goes_when_the_budget_is_exceeded():
    cache = GraphCache(budget_bytes=100)
    graphs = {name: Graph(40) for name in "abc"}
    assert cache.put((0, "a"), graphs["a"])
    assert cache.put((0, "b"), graphs["b"])
    assert cache.get((0, "a")) is graphs["a"]

    assert cache.put((0, "c"), graphs["c"])

    assert [graph.is_closed for graph in graphs.values()] == [False, True, False]
    assert cache.get((0, "b")) is None
    assert cache.nbytes == 80


def test_a_graph_larger_than_the_budget_is_closed_and_costs_no_other_its_place():
    cache = GraphCache(budget_bytes=100)
    small, large = Graph(10), Graph(101)
    cache.put((0, "small"), small)

    assert not cache.put((0, "large"), large)

    assert (small.is_closed, large.is_closed, len(cache)) == (False, True, 1)


def test_graphs_of_a_slot_whose_buffers_moved_are_closed_and_others_stay():
    cache = GraphCache(budget_bytes=100)
    graphs = [Graph(1), Graph(2), Graph(4)]
    for slot, shapes, graph in ((0, "x", graphs[0]), (1, "x", graphs[1]), (0, "y", graphs[2])):
        cache.put((slot, shapes), graph)

    cache.drop_slot(0)

    assert [graph.is_closed for graph in graphs] == [True, False, True]
    assert cache.nbytes == 2


def test_closing_closes_every_graph():
    cache = GraphCache(budget_bytes=100)
    graphs = [Graph(1), Graph(2)]
    for slot, graph in enumerate(graphs):
        cache.put((slot, "x"), graph)

    cache.close()

    assert all(graph.is_closed for graph in graphs)
    assert (len(cache), cache.nbytes) == (0, 0)


def test_counts_have_every_reason_and_do_not_change_afterwards():
    cache = GraphCache(budget_bytes=100)
    cache.put((0, "x"), Graph(1))
    cache.hits = 3
    cache.misses[GraphMiss.FIRST_RUN] += 2

    counts = cache.counts()
    cache.misses[GraphMiss.CAPTURED] += 1

    none_but_first_runs = dict.fromkeys((reason.value for reason in GraphMiss), 0)
    assert counts == GraphCounts(3, none_but_first_runs | {"first_run": 2}, held=1)


def test_the_page_of_metrics_explains_every_reason():
    page = (REPOSITORY / "docs" / "metrics.md").read_text()
    section = page.partition("### CUDA graphs\n")[2].partition("\n## ")[0]

    explained = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)

    assert sorted(explained) == sorted(reason.value for reason in GraphMiss)


def test_a_miss_meanwhile_does_not_disturb_the_reading_of_counts():
    cache = GraphCache(budget_bytes=100)
    reading = iter(cache.misses.items())
    next(reading)

    for reason in GraphMiss:  # a reason that were new would end the reading with an error
        cache.misses[reason] += 1

    assert len(list(reading)) == len(GraphMiss) - 1
