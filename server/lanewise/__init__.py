"""Lanewise: a gRPC inference server that runs each request in the lane made for it.

Imports point down only: cli, processes, rpc | ipc | telemetry | simulator, scheduler, backends,
memory, model | settings, clock | errors. `bench` stands beside the server.
"""

__version__ = "0.1.0"
