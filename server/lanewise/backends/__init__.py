"""Owns models on disk, the backends that load them, and the runners that execute them.

May import `lanewise.memory` and the plain-data modules.
Promises that a loaded model has at least one runner for each of its profiles.
"""
