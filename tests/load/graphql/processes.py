"""Processes: started, watched, ended, and what they use of the machine."""

import os
import signal
import subprocess
import time
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Server:
    """A server in a process group of its own, which ends with the `with` block."""

    def __init__(self, command, environment, folder, log):
        self.log = Path(log)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while self._signal(0) and time.monotonic() < deadline:
            self.process.poll()
            time.sleep(0.05)
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def fail(self, why):
        """Raises with the end of what the server has said."""
        said = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        raise RuntimeError(f"{why}\n{said}")

    def wait_for(self, is_ready, seconds=60):
        """Waits until `is_ready()`, which may raise OSError before the server listens."""
        deadline = time.monotonic() + seconds
        while True:
            if self.process.poll() is not None:
                self.fail("the server has ended by itself")
            try:
                if is_ready():
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                self.fail("the server did not become ready")
            time.sleep(0.05)

    def cpu_ms(self):
        return tree_cpu_ms(self.process.pid)

    def memory_mb(self):
        """The proportional share of memory of all its processes."""
        kilobytes = 0
        for pid in tree(self.process.pid):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kilobytes += int(line.split()[1])
        return kilobytes / 1024


def tree(root):
    """The process and all that descend from it."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat(entry)):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def tree_cpu_ms(root):
    """CPU time a process and its descendants have used, the ended ones included."""
    ticks = sum(sum(map(int, fields[11:15])) for pid in tree(root) if (fields := stat(pid)))
    return ticks * 1000 / TICKS_PER_SECOND


def stat(pid):
    """The fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
