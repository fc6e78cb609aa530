"""The functions' zip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from infra.constructs.assets import copy_files, lambda_files


def test_the_functions_package_imports_alone_and_holds_no_wheel(tmp_path: Path) -> None:
    copy_files(lambda_files(), tmp_path)
    assert not list(tmp_path.rglob("*.so"))
    handlers = ["admit", "triage", "report", "monitor", "quota_check"]
    code = "import sys; " + "; ".join(f"import infra.{name}.handler" for name in handlers)
    code += "; bad = {'torch', 'aws_cdk', 'numpy', 'yaml', 'sagemaker'} & set(sys.modules); assert not bad, bad; print(infra.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
