"""The command line as a user meets it: help, version, exit codes and one-line errors."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from specfm import cli
from specfm.errors import SpecfmError, UsageError

runner = CliRunner()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "specfm", *arguments], capture_output=True, text=True, timeout=120)


def test_version() -> None:
    import specfm

    done = run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"specfm {specfm.__version__}")


def test_help_lists_every_command_with_its_purpose() -> None:
    done = run("--help")
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0]: line.split(None, 1)[1:] for line in done.stdout.splitlines() if line.strip()}
    for name in cli.COMMANDS:
        assert listed.get(name), f"{name} is missing from --help, or has no help text"


def test_every_command_file_is_registered() -> None:
    files = {
        path.stem.replace("_", "-") for path in Path(cli.__file__).parent.glob("*.py") if not path.stem.startswith("_")
    }
    assert files == set(cli.COMMANDS)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_each_command_has_help_for_every_option(name: str) -> None:
    command = import_module(cli.COMMANDS[name]).command
    assert inspect.getdoc(command), f"{name} has no docstring"
    done = runner.invoke(cli.app, [name, "--help"])
    assert done.exit_code == 0, done.output
    parameters = cli.LazyGroup().get_command(None, name).params
    silent = [p.name for p in parameters if p.name != "help" and not getattr(p, "help", None)]
    assert not silent, f"specfm {name}: no help for {silent}"


def test_unknown_command_and_unknown_option_are_usage_errors() -> None:
    for arguments in (["nosuch"], ["sensors", "--nosuch"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert "nosuch" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (SpecfmError("scene.hdr has no wavelengths; pass --sensor NAME"), 1, "error: scene.hdr has no wavelengths; "),
        (UsageError("runs/demo exists; pass --overwrite"), 2, "error: runs/demo exists; "),
        (FileNotFoundError(2, "No such file or directory", "x.hdr"), 1, "error: x.hdr: no such file or directory; "),
        (OSError(28, "No space left on device"), 1, "error: no space left on device; free some space"),
        (OSError("a library's own words"), 1, "error: a library's own words"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    raised: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> None:
        """Fail."""
        raise raised

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(command=command))
    done = runner.invoke(cli.app, ["sensors"])
    assert done.exit_code == code
    assert done.stderr.startswith(line)
    assert len(done.stderr.strip().splitlines()) == 1


def test_termination_takes_away_what_is_half_written(tmp_path: Path) -> None:
    """As `kill` or a batch system ends a command that has no way to go on later."""
    work = (
        "import os, signal, sys\nfrom specfm import cli\nfrom specfm.rasters.writers import open_raster\n"
        "def app(**words):\n"
        "    with open_raster(sys.argv[1], (2, 2, 1)) as writer:\n"
        "        writer.write([[[1], [1]]])\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "cli.app = app\ncli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", work, tmp_path / "m.npy"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 143 and done.stderr == "terminated\n"
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        """Fail."""
        raise SpecfmError("broken")

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(command=command))
    done = runner.invoke(cli.app, ["--debug", "sensors"])
    assert isinstance(done.exception, SpecfmError)


def test_a_bug_is_not_hidden_as_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        """Fail."""
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(command=command))
    assert isinstance(runner.invoke(cli.app, ["sensors"]).exception, ZeroDivisionError)
