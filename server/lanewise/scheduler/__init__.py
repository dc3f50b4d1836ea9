"""Owns the decision which request runs where and when, and carries it out.

May import `lanewise.backends` (the dispatcher only) and the plain-data modules.
Promises that every request ends exactly once.
"""
