"""Owns the KServe v2 service as Triton extends it: requests in, responses out.

May import `lanewise.scheduler` and `lanewise.model`.
Promises that whatever bytes come, the caller gets outputs or a reason.
"""
