"""The command's parent: passes codes and signals on, and has one line for a child that died."""

from __future__ import annotations

import importlib.metadata
import os
import pty
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipelines import cli, supervise
from transforms.watchdog import EXIT_HUNG

PRELUDE = """
import atexit, os, signal, sys, tempfile, threading, time
from pipelines.supervise import supervise
"""
ADVICE = "what was committed stays; run the same command again: a unit that died twice is done one image at a time\n"
WAIT = """
def main():
    try:
        print(os.getpid(), flush=True)
        # A signal that comes just before a sleep does not cut it short.
        for _ in range(600):
            time.sleep(0.1)
    except KeyboardInterrupt:
        time.sleep(0.3)
        print("in order", flush=True)
        return 130
    return 0
"""


def command(main: str) -> list[str]:
    return [sys.executable, "-c", f"{PRELUDE}\n{main}\nsys.exit(supervise(main))"]


def run(main: str) -> subprocess.CompletedProcess[str]:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        command(main), capture_output=True, text=True, timeout=60, check=False, env=buffered
    )


def read_until(terminal: int, words: bytes) -> bytes:
    output = b""
    while words not in output:
        assert select.select([terminal], [], [], 20)[0], output
        output += os.read(terminal, 1000)
    return output


def start(main: str) -> tuple[subprocess.Popen[str], int]:
    """The command without a terminal, and the child's process id."""
    process = subprocess.Popen(command(main), stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout
    return process, int(process.stdout.readline())


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("end", "code", "errors"),
    [
        ("return 0", 0, ""),
        ("return 3", 3, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('a last word')", 1, "a last word\n"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_the_child_s_exit_code_is_the_command_s(end: str, code: int, errors: str) -> None:
    done = run(f"def main():\n    {end}")
    assert (done.returncode, done.stderr) == (code, errors)


def test_a_surprise_shows_its_traceback() -> None:
    done = run("def main():\n    raise LookupError('lost')")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("LookupError: lost\n")


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_child_that_died_by_a_signal_is_one_line(name: str) -> None:
    done = run(f"def main():\n    os.kill(os.getpid(), signal.{name})\n    time.sleep(60)")
    hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
    assert done.returncode == 1
    assert done.stderr == f"pixelbeam: the process died ({name}{hint}); {ADVICE}"


def test_a_child_that_hung_is_one_line() -> None:
    done = run(f"def main():\n    os._exit({EXIT_HUNG})")
    assert done.returncode == 1
    assert done.stderr == f"pixelbeam: the model did not come back from the device; {ADVICE}"


def test_a_worker_process_that_died_is_one_line() -> None:
    done = run(f"def main():\n    os._exit({supervise.EXIT_WORKER_DIED})")
    assert done.returncode == 1
    assert done.stderr == f"pixelbeam: a worker process died; {ADVICE}"


def test_what_was_printed_comes_once() -> None:
    done = run("sys.stdout.write('before ')\ndef main():\n    sys.stdout.write('inside')\n    return 0")
    assert done.stdout == "before inside"


def test_temporary_files_go_and_threads_are_not_waited_for(tmp_path: Path) -> None:
    done = run(
        f"def main():\n    global kept\n    kept = tempfile.TemporaryDirectory(dir={str(tmp_path)!r})\n"
        "    threading.Thread(target=time.sleep, args=[300]).start()\n    return 0"
    )
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_parent_alone_ends_the_child_in_order(number: int) -> None:
    process, _ = start(WAIT)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (130, "in order\n")


def test_ctrl_c_reaches_the_child_once() -> None:
    # Passed on, it would come into the sleep before the last line.
    slowly = "kill = os.kill\nos.kill = lambda *signal: (time.sleep(0.1), kill(*signal))"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, command(f"{WAIT}\n{slowly}"))
    read_until(terminal, b"\n")
    os.write(terminal, b"\x03")
    output = read_until(terminal, b"in order")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert b"Traceback" not in output


def test_the_cursor_comes_back_on_a_terminal() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, command("def main():\n    os.kill(os.getpid(), signal.SIGSEGV)"))
    output = read_until(terminal, b"at a time")
    os.waitpid(pid, 0)
    os.close(terminal)
    assert output.startswith(b"\r\n\x1b[?25hpixelbeam: the process died (SIGSEGV)")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process whose parent died")
def test_the_child_dies_with_its_parent() -> None:
    process, child = start(WAIT)
    assert is_alive(child)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="as above")
def test_a_parent_that_died_before_it_was_watched_is_noticed() -> None:
    done = run("from pipelines.supervise import _die_with\n_die_with(os.getpid())\ndef main():\n    return 0")
    assert done.returncode == supervise.EXIT_INCOMPLETE


def test_peak_memory_and_time_are_the_command_s() -> None:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command("def main():\n    return len(b'x' * 300_000_000) % 7"), stdout=output
        )
        _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 300_000_000 % 7
    assert usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) > 300_000_000


@pytest.mark.parametrize(("arguments", "code"), [(["run", "--input", "x"], 7), (["variants"], 0), ([], 2)])
def test_only_run_has_a_parent(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pixelbeam", *arguments])
    monkeypatch.setattr(cli, "supervise", lambda _: 7)
    assert cli.console() == code
    capsys.readouterr()


def test_both_ways_to_call_the_command_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="pixelbeam")
    assert entry.load() is cli.console
    monkeypatch.setattr(sys, "argv", ["pixelbeam", "run"])
    monkeypatch.setattr(supervise, "supervise", lambda _: 7)
    monkeypatch.delitem(sys.modules, "pipelines.cli")
    with pytest.raises(SystemExit) as leaving:
        runpy.run_module("pipelines.cli", run_name="__main__")
    assert leaving.value.code == 7
