"""Requests that wait, kept by what can run together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lanewise.scheduler.backlog import Backlog, StackQueue
from lanewise.scheduler.request import Request
from lanewise.scheduler.routing import Route

FITS = (0, 1)
BUCKETS = (0, 0)


def waiting(
    number: int,
    rows: int = 1,
    *,
    due_ns: int = 0,
    shape: tuple[int, ...] = (),
    owners: tuple[int, ...] = (0,),
) -> Request:
    route = Route(rows, (shape,), FITS, BUCKETS)
    return Request(
        route,
        stack_key=shape,
        payload=number,
        sequence=number,
        due_ns=due_ns,
        fits=FITS,
        owners=owners,
        rows_left=rows,
    )


def ids(entries: list[Request]) -> list[int]:
    return [one.payload for one in entries]


def queue_of(*entries: Request) -> StackQueue:
    queue = StackQueue(FITS, BUCKETS)
    for one in entries:
        queue.add(one)
    return queue


def test_requests_wait_in_the_order_they_are_due_and_of_their_arrival_where_that_is_equal():
    queue = queue_of(waiting(1, due_ns=9), waiting(2, due_ns=5), waiting(3, due_ns=9))

    assert ids(queue.entries) == [2, 1, 3]


def test_each_combination_of_profiles_made_for_requests_has_a_head_of_its_own():
    queue = queue_of(
        waiting(1, owners=(1,)), waiting(2, owners=(0,)), waiting(3, owners=(0,), due_ns=-1)
    )

    assert [ids(entries)[0] for entries in queue.by_owners.values()] == [1, 3]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.data())
def test_the_rows_beside_a_request_are_those_that_surely_fit_the_room(sizes, data):
    entries = [waiting(i, rows) for i, rows in enumerate(sizes)]
    gone = data.draw(st.sets(st.sampled_from(range(len(entries))), max_size=len(entries) - 1))
    queue = queue_of(*entries)
    for i in gone:
        queue.remove(entries[i])
    left = [one for i, one in enumerate(entries) if i not in gone]
    head = data.draw(st.sampled_from(left))

    beside = queue.rows_beside(head)

    for bits, rows in enumerate(beside):
        small = [one.rows_left for one in left if one is not head and one.rows_left < 1 << bits]
        assert rows == sum(small)
    assert beside[-1] == sum(one.rows_left for one in left) - head.rows_left


def test_a_backlog_keeps_requests_apart_that_cannot_share_a_launch():
    backlog = Backlog(())
    short, long = waiting(1, shape=(8,)), waiting(2, shape=(16,))
    backlog.add(short)
    backlog.add(long)

    assert ids(backlog.queue_of(short).entries) == [1]
    assert ids(backlog.queue_of(long).entries) == [2]


def test_a_backlog_forgets_queues_and_profiles_that_nothing_waits_for():
    backlog = Backlog(())
    only = waiting(1)
    backlog.add(only)
    assert (len(backlog), len(backlog.queues), dict(backlog.by_owners)) == (1, 1, {(0,): 1})

    backlog.remove(only)

    assert (len(backlog), len(backlog.queues), dict(backlog.by_owners)) == (0, 0, {})
