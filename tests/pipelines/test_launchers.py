"""Child processes: exit codes, environment, and that none outlives a stopped run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cosalign.domain.errors import UserError
from cosalign.pipelines.ir import Container
from cosalign.pipelines.launchers import Launch, SubprocessLauncher


def launch_of(*command: str, env: dict[str, str] | None = None) -> Launch:
    return Launch("step", command, Container("x", command, (), env or {}, {}))


@pytest.mark.parametrize("code", [0, 2, 70, 75])
def test_the_exit_code_of_the_child_is_given(code: int) -> None:
    assert (
        SubprocessLauncher().launch(launch_of("python", "-c", f"raise SystemExit({code})")) == code
    )


def test_a_child_ended_by_a_signal_counts_as_in_a_shell() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert SubprocessLauncher().launch(launch_of("python", "-c", code)) == 128 + signal.SIGKILL


def test_python_in_a_pipeline_is_this_interpreter_and_output_streams_through(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    code = (
        "import os, sys; print(sys.prefix, os.environ['GIVEN']); print('warned', file=sys.stderr)"
    )
    assert SubprocessLauncher().launch(launch_of("python", "-c", code, env={"GIVEN": "v"})) == 0
    shown = capfd.readouterr()
    assert shown.out == f"{sys.prefix} v\n"
    assert shown.err == "warned\n"


def test_a_command_that_does_not_exist_is_named_with_its_task() -> None:
    with pytest.raises(UserError, match="task 'step': cannot start 'no-such-program'"):
        SubprocessLauncher().launch(launch_of("no-such-program"))


def test_an_argument_too_long_for_the_kernel_is_a_user_error() -> None:
    with pytest.raises(UserError, match="Argument list too long"):
        SubprocessLauncher().launch(launch_of("true", "x" * 200_000))


STOPPABLE_RUN = """
import sys
from cosalign.pipelines.failures import RunStopped
from cosalign.pipelines.ir import Container
from cosalign.pipelines.launchers import Launch, SubprocessLauncher

child = '''
import os, pathlib, signal, subprocess, sys, time
{stubborn}
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
place = pathlib.Path({place!r})
place.with_suffix(".new").write_text(str(os.getpid()) + " " + str(helper.pid))
place.with_suffix(".new").rename(place)
time.sleep(600)
'''
container = Container("x", (), (), {{}}, {{}})
with SubprocessLauncher(grace_seconds=1) as launcher:
    try:
        launcher.launch(Launch("step", ("python", "-c", child), container))
    except RunStopped as stopped:
        sys.exit(stopped.exit_code)
"""
IGNORE_SIGTERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def start_stoppable_run(
    place: Path, stubborn: str = ""
) -> tuple[subprocess.Popen[bytes], list[int]]:
    code = STOPPABLE_RUN.format(stubborn=stubborn, place=str(place))
    run = subprocess.Popen([sys.executable, "-c", code])
    while not place.exists():
        assert run.poll() is None, "the run ended before its child was up"
        time.sleep(0.02)
    return run, [int(pid) for pid in place.read_text().split()]


def is_alive(pid: int) -> bool:
    """A zombie that nobody has collected is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pid: int) -> None:
    while is_alive(pid):
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("signum", "stubborn"),
    [(signal.SIGINT, ""), (signal.SIGTERM, ""), (signal.SIGTERM, IGNORE_SIGTERM)],
)
@pytest.mark.timeout(120)
def test_a_stopped_run_ends_the_childs_whole_group_and_exits_as_a_shell_would(
    signum: int, stubborn: str, tmp_path: Path
) -> None:
    run, pids = start_stoppable_run(tmp_path / "pids", stubborn)
    run.send_signal(signum)
    assert run.wait() == 128 + signum
    for pid in pids:
        wait_until_gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.timeout(120)
def test_the_child_of_a_killed_run_does_not_go_on(tmp_path: Path) -> None:
    run, (child, helper) = start_stoppable_run(tmp_path / "pids")
    run.kill()
    run.wait()
    wait_until_gone(child)
    os.kill(helper, signal.SIGKILL)  # Its own parent's affair; here it is ours to clean up.
