from __future__ import annotations

from dataclasses import dataclass

import pytest

pytest.importorskip("cuda.bindings")

from lanewise.engine.trt.graphs import GraphCache


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
