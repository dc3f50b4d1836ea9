"""Owns plain data about models: specs, profiles, tensors, shared-memory regions.

May import `lanewise.clock` and `lanewise.errors`.
"""
