"""Lanewise: a gRPC inference server that runs each request in the lane made for it.

Layers import to the right only: rpc, scheduler, engine, memory. The modules beside this
file are plain data that every layer may use; `app` is the one place that sees them all.
"""

__version__ = "0.1.0"
