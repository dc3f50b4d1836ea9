"""Owns the transport over Envoy: calls that pyvoy hands to Python as ASGI.

May import the rest of `rpc`.
"""
