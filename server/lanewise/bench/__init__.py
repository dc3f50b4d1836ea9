"""A load generator for servers of the KServe v2 protocol: ours, Triton and others.

Imports the client's stubs and the plain data at the root; nothing of the server itself.
Promises that every request that was due is counted once, by what became of it, and that
latency counts from when a request was due and not from when the client got round to it.
"""
