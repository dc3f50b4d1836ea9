"""Stubs generated from `protos/` by `make protos`; edit those files, never these."""
