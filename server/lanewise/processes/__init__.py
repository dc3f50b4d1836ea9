"""Owns what runs, and in which process: the whole server in one, or a supervisor, an engine and
front ends.

May import every layer but the command line; `app` is the one place that connects them all.
Promises that each process stops when it is told to, and none outlives its supervisor.
"""
