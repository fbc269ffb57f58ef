"""An older ipykernel beside the newest, for what the two do differently."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OLDER = "7.3"  # the last that hears a widget in whatever thread the front end asks for


def older_ipykernel(scratch: Path) -> Path:
    """A folder with that version in it. It is fetched once, by pip, into the environment that the tests run in."""
    home = Path(sys.prefix) if os.access(sys.prefix, os.W_OK) else scratch
    folder = home / f"ipykernel-{OLDER}"
    if not folder.exists():
        making = scratch / "ipykernel"
        options = ["--quiet", "--no-deps", "--disable-pip-version-check", "--no-input"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(making), f"ipykernel=={OLDER}.*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        if done.returncode != 0:
            missing = f"NOT TRIED ON IPYKERNEL {OLDER}: pip could not fetch it: {done.stderr[-300:]}"
            if os.environ.get("IPYCONVEXAI_TEST_BROWSER") == "required":
                pytest.fail(missing)
            pytest.skip(missing)
        shutil.move(making, folder)
    return folder
