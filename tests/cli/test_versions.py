"""Packages older than the tested ones are refused in one sentence, before anything is imported."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from qlora_repro.cli import main
from qlora_repro.cli.main import run_command


def test_this_environment_is_new_enough() -> None:
    main.check_versions()


def test_an_older_package_is_named_with_both_versions_and_the_command() -> None:
    sentence = main.describe_outdated(["numpy>=99.1", "packaging>=1", "torch>=2,<2.1"])
    assert sentence == (
        f"numpy is {version('numpy')}, and >=99.1 is needed; "
        f"torch is {version('torch')}, and <2.1,>=2 is needed; "
        "run pip install 'numpy>=99.1' 'torch<2.1,>=2'"
    )


def test_a_build_of_the_oldest_version_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "installed_version", lambda name: "2.11.0+cu130")
    assert main.describe_outdated(["torch>=2.11.0"]) == ""


def test_the_command_says_it_before_it_composes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "installed_version", lambda name: "5.9.0")
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert run_command(lambda: pytest.fail("composed")) == 1
    assert "transformers is 5.9.0, and >=5.17.0 is needed" in capsys.readouterr().err


def test_the_check_imports_no_gpu_stack() -> None:
    code = (
        "import sys; from qlora_repro.cli.main import check_versions; check_versions(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
