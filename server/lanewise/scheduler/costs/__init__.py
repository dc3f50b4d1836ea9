"""Owns what launches cost: measured at load, learnt while serving, kept in files.

May import the scheduler's plain records; `measuring` alone runs anything.
"""
