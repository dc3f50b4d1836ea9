"""Owns what an operator may set: the options of the server, their defaults, and `model.toml`.

May import `lanewise.model`, `lanewise.clock` and `lanewise.errors`.
Promises that a wrong setting is refused with its file or option, what came and what is allowed.
"""
