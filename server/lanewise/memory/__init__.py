"""Owns host, pinned and device buffers, and registered shared-memory regions.

May import only the plain-data modules of `lanewise`.
Promises that a buffer never shrinks and has one owner at a time.
"""
