"""What is installed is what the repository says it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lanewise

ROOT = Path(__file__).parent.parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

IMPORT_THE_CLIENT_ALONE = """
import importlib, pkgutil, sys
ALLOWED = {*sys.stdlib_module_names, "lanewise_client", "google", "grpc", "numpy",
           "typing_extensions"}  # the last one comes with grpcio
class Gate:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"{name} is not among the client's dependencies", name=name)
sys.meta_path.insert(0, Gate())
import lanewise_client
for module in pkgutil.walk_packages(lanewise_client.__path__, "lanewise_client."):
    print(importlib.import_module(module.name).__name__)
"""


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "server"), str(ROOT / "client")]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_version_has_one_home_and_an_entry_in_the_changelog():
    home = ROOT / PYPROJECT["tool"]["hatch"]["version"]["path"]
    changelog = (ROOT / "CHANGELOG.md").read_text()

    assert "version" in PROJECT["dynamic"]
    assert Path(lanewise.__file__).samefile(home)
    assert re.search(rf"^## \[?{re.escape(lanewise.__version__)}\b", changelog, re.MULTILINE)


@pytest.mark.parametrize(
    "package", PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
)
def test_every_package_of_the_wheel_is_typed(package):
    assert (ROOT / package / "py.typed").is_file()


def test_everything_listed_for_the_source_distribution_exists():
    included = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]

    assert [path for path in included if not (ROOT / path.lstrip("/")).exists()] == []


def test_every_proto_file_has_its_stubs():
    stubs = ROOT / "client" / "lanewise_client" / "protos"
    wanted = {
        f"{proto.stem}{ending}"
        for proto in (ROOT / "protos").glob("*.proto")
        for ending in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
    }

    assert wanted
    assert wanted == {path.name for path in stubs.glob("*_pb2*")}


def test_the_client_needs_nothing_but_grpc_protobuf_and_numpy():
    imported = run_python(IMPORT_THE_CLIENT_ALONE).split()

    assert {"lanewise_client.client", "lanewise_client.protos.inference_pb2_grpc"} <= set(imported)


def test_the_server_starts_without_any_backend_installed():
    loaded = run_python(
        "import json, sys, lanewise.cli.main, lanewise.processes.app; "
        "print(json.dumps(sorted(sys.modules)))"
    )
    backends = {"onnxruntime", "tensorrt", "tensorrt_lean", "tensorrt_rtx", "cuda"}

    assert backends.isdisjoint(json.loads(loaded))


def test_grpc_is_not_imported_where_nobody_speaks_it():
    loaded = run_python(
        "import json, sys, lanewise.processes.app, lanewise.ipc.server, lanewise.cli.simulate, "
        "lanewise.cli.build; print(json.dumps(sorted(sys.modules)))"
    )

    assert {"lanewise.model.tensors", "lanewise_client.datatypes"} <= set(json.loads(loaded))
    assert {"grpc", "google.protobuf"}.isdisjoint(json.loads(loaded))


def test_an_engine_has_imported_what_answers_calls_before_it_takes_any():
    loaded = run_python(
        """if True:
        import asyncio, json, sys
        from pathlib import Path
        from lanewise.processes.app import App
        from lanewise.settings.server import ServerSettings

        def front(*_):
            print(json.dumps(sorted(sys.modules)))
            sys.exit()

        settings = ServerSettings(Path("examples/digits/models"), metrics_port=0)
        asyncio.run(App(settings, front=front, watch_signals=lambda _: None).run())
        """
    )

    assert {"google.protobuf", "lanewise.rpc.engine_calls"} <= set(json.loads(loaded))
    assert "grpc" not in json.loads(loaded)


def test_every_name_of_the_client_is_imported_when_it_is_used():
    run_python(
        "import lanewise_client\n"
        "assert lanewise_client.errors.ServingError is lanewise_client.ServingError\n"
        "assert {'Client', 'errors'} <= set(dir(lanewise_client))\n"
        "for name in lanewise_client.__all__: assert getattr(lanewise_client, name), name"
    )


def test_a_python_that_is_supported_is_declared():
    declared = {
        classifier.rpartition(" ")[2]
        for classifier in PROJECT["classifiers"]
        if classifier.startswith("Programming Language :: Python :: 3.")
    }

    assert declared == {"3.11", "3.12", "3.13"}
    assert PROJECT["requires-python"] == ">=3.11"


def test_protobuf_6_and_7_are_both_allowed():
    (protobuf,) = (
        requirement
        for requirement in map(Requirement, PROJECT["dependencies"])
        if requirement.name == "protobuf"
    )

    assert [version for version in ("6.33.6", "7.36.2") if version not in protobuf.specifier] == []
