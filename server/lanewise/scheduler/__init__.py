"""Owns the decision which request runs where and when, and carries it out.

May import `lanewise.engine` (the dispatcher only) and the plain-data modules.
Promises that every request ends exactly once.
"""
