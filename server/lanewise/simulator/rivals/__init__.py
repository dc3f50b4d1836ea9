"""Owns the scheduling rules of other servers, as published; `simulator.policies` names them.

May import `lanewise.scheduler`. No server runs them.
"""
