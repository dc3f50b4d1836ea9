"""Owns the buffers that batches are built in.

May import only the plain-data modules of `lanewise`.
Promises that a buffer never shrinks and has one owner at a time.
"""
