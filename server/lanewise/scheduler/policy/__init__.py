"""Owns how the scheduler decides what is launched next.

May import the costs and the scheduler's plain records.
Promises pure decisions: no I/O, no clock, the same answer for the same backlog and costs.
"""
