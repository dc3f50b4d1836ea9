"""Owns what operators see: metrics, health over HTTP, logs.

May import the scheduler's plain records and registry. Reads the server, never changes it.
"""
