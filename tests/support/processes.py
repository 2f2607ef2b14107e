"""Fresh processes that run a piece of Python."""

import json
import os
import subprocess
import sys
from typing import Any


def run_python(code: str, **environment: str) -> Any:
    """The JSON document that ``code`` prints in a fresh process without settings of JAX and XLA."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_", "TF_CPP"))}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
