"""Owns traffic, recorded or made up, and what the scheduler would do with it on a virtual device.

May import the scheduler, but not its dispatcher, and the plain-data modules.
Promises the same result for the same costs, traffic and seed.
"""
