"""Owns the `lanewise` command: parses arguments, calls what they ask for, prints.

May import everything; nothing imports it.
"""
