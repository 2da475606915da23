"""Measures one query of the product beside its peers, and prints a table. `run.sh` starts what it needs.

Takes BINARY, BY_HAND, PEERS (a folder), DATABASE_URL, DATABASE_PID, NO_PEERS and ONLY from the environment.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import answers
import targets
import world
from processes import Server, tree_cpu_ms

CLIENTS = 32
WARM_UP_SECONDS = 3
SAMPLES = 3
# What a server may see of the caller's environment; everything else is a setting of its own.
PASSED_ON = ("PATH", "HOME", "LANG", "TZ")


@dataclass(frozen=True)
class Figures:
    target: targets.Target
    per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float
    """Of one request, like the database's."""
    database_cpu_ms: float
    memory_mb: float


class Bench:
    def __init__(self, folder, seconds):
        self.folder = Path(folder)
        self.seconds = seconds
        self.database = os.environ["DATABASE_URL"]
        self.database_pid = int(os.environ["DATABASE_PID"])
        self.users = []
        self.expected = {}

    def prepare(self, accounts, containers):
        """Makes the data through the product's own start and sign-up, the containers by SQL."""
        port = free_port()
        target = targets.ours()
        with self.start(target, port) as server:
            asked = ("POST", "/graphql", {"query": "{ __typename }"}, None)
            server.wait_for(lambda: answers.ask(port, asked)[0] == 200)
            self.users = world.sign_up(port, accounts)
        world.fill(self.database, containers)
        samples = self.users[:: max(1, accounts // SAMPLES)][:SAMPLES]
        self.expected = {user: world.newest(self.database, user) for user in samples}
        if any(len(rows) != world.ROWS for rows in self.expected.values()):
            raise RuntimeError(f"a user has fewer than {world.ROWS} containers")

    def start(self, target, port):
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {"DATABASE_URL": self.database, "PORT": str(port)} | target.settings
        command = [word.replace("{port}", str(port)) for word in target.command]
        return Server(command, environment, self.folder, self.folder / f"{target.name}.log")

    def measure(self, target):
        port = free_port()
        requests = self.folder / f"{target.name}.requests"
        raw = [targets.raw(target.request(user), port) for user in self.users]
        requests.write_text("".join(f"{text}\x1e" for text in raw), newline="")
        with self.start(target, port) as server:
            first = target.request(self.users[0])
            server.wait_for(lambda: answers.ask(port, first)[0] == 200)
            for user, expected in self.expected.items():
                answers.check(port, target, user, expected)
            self.load(target, port, requests, WARM_UP_SECONDS)
            before = server.cpu_ms(), tree_cpu_ms(self.database_pid)
            seen = self.load(target, port, requests, self.seconds)
            after = server.cpu_ms(), tree_cpu_ms(self.database_pid)
            memory_mb = server.memory_mb()
        return Figures(
            target,
            per_second=seen["requests"] * 1e6 / seen["micros"],
            p50_ms=seen["p50_micros"] / 1000,
            p99_ms=seen["p99_micros"] / 1000,
            server_cpu_ms=(after[0] - before[0]) / seen["requests"],
            database_cpu_ms=(after[1] - before[1]) / seen["requests"],
            memory_mb=memory_mb,
        )

    def load(self, target, port, requests, seconds):
        """What the load generator has seen; raises when an answer was not right."""
        script = Path(__file__).with_name("newest.lua")
        command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script)]
        command += [f"http://127.0.0.1:{port}", "--", str(requests), str(world.ROWS)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seen = json.loads(done.stdout.splitlines()[-1])
        if seen["wrong"] or seen["broken"] or not seen["requests"]:
            raise RuntimeError(f"{target.name}: not every answer was right: {seen}")
        return seen


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def chosen():
    """The targets of this run, in the table's order."""
    every = [targets.ours(), *targets.by_hand()]
    if not os.environ.get("NO_PEERS"):
        every += targets.peers()
    only = os.environ.get("ONLY")
    if not only:
        return every
    named = [target for target in every if target.name == only]
    if not named:
        raise SystemExit(f"ONLY is one of: {' '.join(target.name for target in every)}")
    return named


def print_table(rows):
    ours = next((row for row in rows if row.target.name == "ours"), None)
    head = ("requests/s", "p50 ms", "p99 ms", "server CPU ms", "database CPU ms", "memory MB", "ours is")
    print(f"{'':<46}" + "".join(f"{title:>{len(title) + 2}}" for title in head))
    for row in rows:
        cells = (
            f"{row.per_second:.0f}",
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.server_cpu_ms:.3f}",
            f"{row.database_cpu_ms:.3f}",
            f"{row.memory_mb:.0f}",
            f"{ours.per_second / row.per_second:.2f}×" if ours else "",
        )
        print(f"{row.target.label:<46}" + "".join(f"{c:>{len(t) + 2}}" for c, t in zip(cells, head)))


def print_aims(rows):
    by_name = {row.target.name: row for row in rows}
    ours = by_name.get("ours")
    if not ours:
        return
    print()
    for name, aim in (("postgraphile", 4), ("by-hand", 0.7)):
        if other := by_name.get(name):
            ratio = ours.per_second / other.per_second
            print(verdict(f"requests/s, ours / {name}: {ratio:.2f} (aim: at least {aim})", ratio >= aim))
    cpu = ours.server_cpu_ms
    print(verdict(f"server CPU ms a request: {cpu:.3f} (aim: at most 0.15)", cpu <= 0.15))
    others = [row for row in rows if row.target.name not in ("ours", "by-hand")]
    if others:
        lowest = min(others, key=lambda row: row.p99_ms)
        text = f"p99 ms: {ours.p99_ms:.2f}, the lowest of the others {lowest.p99_ms:.2f}, {lowest.target.label}"
        print(verdict(text, ours.p99_ms < lowest.p99_ms))


def verdict(text, is_met):
    return f"{'met   ' if is_met else 'MISSED'}  {text}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--containers", type=int, default=100_000)
    options = parser.parse_args()
    # A signal unwinds, so that every server's `with` block ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run = chosen()
    with tempfile.TemporaryDirectory(prefix="main-webserver-graphql.") as folder:
        bench = Bench(folder, options.seconds)
        print("making the data", file=sys.stderr)
        bench.prepare(options.accounts, options.containers)
        rows = []
        for target in run:
            print(f"measuring {target.label}", file=sys.stderr)
            rows.append(bench.measure(target))
    print_table(rows)
    print_aims(rows)


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
