"""Owns the wire: protobuf messages in and out, gRPC status, health.

May import `lanewise.scheduler` and the plain-data modules.
Promises that whatever bytes come, the caller gets outputs or a reason.
"""
