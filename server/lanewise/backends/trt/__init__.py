"""Owns everything that is TensorRT's: plans and their cache, and the runners that execute them.

May import `lanewise.memory`, the modules of `lanewise.backends` and the plain-data modules.
Promises that TensorRT is imported when it is first asked for, and that errors carry its own
reasons.
"""
