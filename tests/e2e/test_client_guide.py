import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "client.md"
ADDRESS_IN_GUIDE = "localhost:8001"


@pytest.fixture
def address():
    """Serve the digits example in a process of its own."""
    pytest.importorskip("onnxruntime")
    command = [
        sys.executable, "-m", "lanewise", "serve", str(ROOT / "examples/digits/models"),
        "--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0", "--log-format", "json",
    ]  # fmt: skip
    environment = {"PYTHONPATH": f"{ROOT / 'server'}:{ROOT / 'client'}"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield next(
                entry["grpc"]
                for line in process.stderr
                if (entry := json.loads(line))["event"] == "serving"
            )
        finally:
            process.terminate()
            process.communicate()


def test_the_python_examples_of_the_guide_run_and_print_what_they_claim(address):
    examples = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    printed = io.StringIO()

    with contextlib.redirect_stdout(printed):
        exec("".join(examples).replace(ADDRESS_IN_GUIDE, address), {})

    lines = printed.getvalue().splitlines()
    assert lines[:2] == ["(3, 10)", "dynamic 3"]
    assert "StatusCode.INVALID_ARGUMENT NoProfileAdmits" in lines
    assert "True True True" in lines
    assert [line for line in lines if "failed:" in line] == []
