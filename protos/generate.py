"""Generate the Python stubs of the protocol; with --check, tell whether they are stale.

Run as `make protos`. The stubs of this repository live in a descriptor pool of their own
(see lanewise_client/protos/_pool.py), so the one line that names the pool is replaced.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

SOURCES = Path(__file__).parent
STUBS = SOURCES.parent / "client" / "lanewise_client" / "protos"
PACKAGE = "lanewise_client/protos"
POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool"
OWN_POOL_IMPORT = "from lanewise_client.protos import _pool as _descriptor_pool"


def generate(into: Path) -> list[Path]:
    """Write the stubs of every .proto file below `into` and return their paths."""
    names = sorted(path.name for path in SOURCES.glob("*.proto"))
    arguments = [
        f"-I{PACKAGE}={SOURCES}",
        f"--python_out={into}",
        f"--pyi_out={into}",
        f"--grpc_python_out={into}",
        *(f"{PACKAGE}/{name}" for name in names),
    ]
    if protoc.main(["protoc", *arguments]) != 0:
        raise SystemExit("protoc failed")
    for path in (into / PACKAGE).glob("*_pb2.py"):
        text = path.read_text()
        if POOL_IMPORT not in text or "_descriptor_pool.Default()" not in text:
            raise SystemExit(f"{path.name}: the generated code no longer names the default pool")
        text = text.replace(POOL_IMPORT, OWN_POOL_IMPORT)
        path.write_text(text.replace("_descriptor_pool.Default()", "_descriptor_pool.POOL"))
    return sorted((into / PACKAGE).iterdir())


def main() -> int:
    """Generate, or compare with what is there; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
        stale = [
            path.name
            for path in fresh
            if not (STUBS / path.name).exists()
            or not filecmp.cmp(path, STUBS / path.name, shallow=False)
        ]
        if check and stale:
            print(f"stale stubs: {', '.join(stale)}; run `make protos`", file=sys.stderr)
            return 1
        if not check:
            for path in fresh:
                shutil.copy(path, STUBS / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
