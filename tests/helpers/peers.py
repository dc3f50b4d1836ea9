"""The public clients that the server is tested with; they are optional to install."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from types import ModuleType
from unittest import mock

import pytest
from google.protobuf import descriptor_pool

REQUIRED = "LANEWISE_REQUIRE_PEERS"
"""Environment variable; set to 1, a missing peer fails its tests instead of skipping them."""

IN_A_POOL_OF_THEIR_OWN = ("kserve",)
"""Triton's and KServe's clients register the same message names in protobuf's default pool,
which takes a name once: whichever comes second cannot be imported into the same process.
Triton's client is imported as its users do, KServe's into another pool."""


def require_peer(package: str) -> None:
    """Skip what calls this, a test or a module of them, if a peer is not installed."""
    if importlib.util.find_spec(package) is None:
        message = f"{package} is not installed; pip install -e '.[peers]' brings it"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{message} ({REQUIRED}=1)", pytrace=False)
        pytest.skip(message, allow_module_level=True)


def import_peer(name: str) -> ModuleType:
    """Import a peer by its module name, or skip the tests of the module that calls this.

    Call it once for each module of a peer before importing anything else from there.
    """
    package = name.partition(".")[0]
    require_peer(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peers import is not ours to mend
        if package not in IN_A_POOL_OF_THEIR_OWN:
            return importlib.import_module(name)
        pool = descriptor_pool.DescriptorPool()
        with mock.patch.object(descriptor_pool, "Default", return_value=pool):
            return importlib.import_module(name)
