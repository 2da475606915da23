"""Times machines of the service beside plain QEMU processes, all at once, and prints a table."""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "graphql"))
from processes import Server, stat  # noqa: E402  (the folder of another benchmark)

PASSWORD = "correct horse battery"
READY = b"guest ready"
RUN = Path(os.environ["RUN"])
MACHINES = RUN / "q"
DISK = "32M"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


PORT = free_port()


class Client:
    """One person; each request is a connection of its own, so that threads may share it."""

    def __init__(self, token=None):
        self.headers = {"content-type": "application/json"}
        if token:
            self.headers["authorization"] = f"Bearer {token}"

    def open(self, query, **more):
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=300)
        connection.request("POST", "/graphql", json.dumps({"query": query, **more}), self.headers)
        return connection, connection.getresponse()

    def ask(self, query, **variables):
        connection, answer = self.open(query, variables=variables)
        answer = json.load(answer)
        connection.close()
        if "errors" in answer:
            raise RuntimeError(answer["errors"])
        return answer["data"]

    def reaches(self, machine, state):
        """Watches the machine, as a client does, until it is in `state`."""
        watcher = Client()
        watcher.headers = {**self.headers, "accept": "text/event-stream"}
        fields = "state failure { code reason }"
        connection, answer = watcher.open(f'subscription {{ virtualMachineUpdated(id: "{machine}") {{ {fields} }} }}')
        for line in answer:
            if line.startswith(b"data:") and line.strip() != b"data:":
                now = json.loads(line[5:])["data"]["virtualMachineUpdated"]
                if now["state"] == state:
                    connection.close()
                    return
                if now["state"] == "FAILED":
                    raise RuntimeError(now)
        raise RuntimeError("the stream ended")

    def does(self, operation, machine):
        self.ask(f'mutation {{ {operation}(input: {{id: "{machine}"}}) {{ task {{ id }} }} }}')


def log_in():
    data = Client().ask("mutation($input: LogInInput!) { logIn(input: $input) { accessToken } }",
                        input={"email": "admin@localhost", "password": PASSWORD})
    return Client(data["logIn"]["accessToken"])


def together(work, items):
    """Runs `work` for all items at once; what each gave, and the seconds it took, in the order of their ends."""
    began = time.perf_counter()

    def timed(item):
        result = work(item)
        return time.perf_counter() - began, result

    with ThreadPoolExecutor(max_workers=len(items)) as pool:
        done = list(pool.map(timed, items))
    return sorted(took for took, _ in done), [result for _, result in done]


def ready_after(logs, count, began):
    """When each of `count` guests has said that it is ready; `logs` gives their consoles' logs so far."""
    ready = {}
    deadline = began + 600
    while len(ready) < count:
        if time.perf_counter() > deadline:
            raise RuntimeError(f"{count - len(ready)} guests have never been ready")
        for log in logs():
            if log not in ready and log.exists() and READY in log.read_bytes():
                ready[log] = time.perf_counter() - began
        time.sleep(0.02)
    return sorted(ready.values())


def running():
    """The processes of QEMU below our folder: number and arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().decode().split("\0")[:-1] if entry.name.isdigit() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
        if line and line[0].startswith("qemu-system") and any(str(RUN) in word for word in line):
            found.append((int(entry.name), line))
    return found


def resident_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has ended")


class Plain:
    """A machine without the service: the folder and the arguments of one of its machines, with a disk of its own."""

    def __init__(self, model, number):
        source, line = model
        self.folder = RUN / "p" / f"{number:038}"
        shutil.copytree(source, self.folder, ignore=lambda _, names: [
            name for name in names if name in ("disk.qcow2", "pid", "qmp", "tty", "vnc", "console.log")])
        self.log = self.folder / "console.log"
        was = next(word for word in line if "hostfwd=" in word).rpartition("hostfwd=tcp:127.0.0.1:")[2].partition("-")[0]
        port = str(free_port())
        self.line = [word.replace(str(source), str(self.folder)).replace(f":{was}-:", f":{port}-:") for word in line]

    def start(self):
        disk = self.folder / "disk.qcow2"
        subprocess.check_call(["qemu-img", "create", "-q", "-f", "qcow2", disk, DISK])
        subprocess.check_call(self.line)

    def ask(self, command):
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.folder / "qmp"))
            said = monitor.makefile("r")
            said.readline()
            for name in ("qmp_capabilities", command):
                monitor.sendall(json.dumps({"execute": name}).encode())
                while "return" not in (answer := json.loads(said.readline())):
                    pass
        return answer["return"]

    def stop(self):
        pid = int((self.folder / "pid").read_text())
        self.ask("system_powerdown")
        while self.ask("query-status")["status"] != "shutdown":
            time.sleep(0.05)
        self.ask("quit")
        while (fields := stat(pid)) and fields[0] not in "ZX":
            time.sleep(0.01)


def put_image(admin):
    admin.ask("mutation($input: PutMachineImageInput!) { putMachineImage(input: $input) { image { id } } }", input={
        "slug": "guest", "name": "Guest", "kernel": "vmlinuz", "initrd": "initrd", "ports": [8080], "cpus": 1,
        "commandLine": "console=ttyS0 loglevel=4", "readyText": READY.decode(), "memoryMebibytes": 128,
        "diskMebibytes": 32})


def create(admin):
    data = admin.ask('mutation { createVirtualMachine(input: {name: "box", image: "guest", region: "us-west-2"}) '
                     '{ virtualMachine { id } } }')
    machine = data["createVirtualMachine"]["virtualMachine"]["id"]
    admin.reaches(machine, "RUNNING")
    return machine


def after(admin, operation, state):
    def work(machine):
        admin.does(operation, machine)
        admin.reaches(machine, state)
    return work


def measure_plain(model, count):
    machines = [Plain(model, number) for number in range(count)]
    with ThreadPoolExecutor(max_workers=1) as pool:
        began = time.perf_counter()
        ready = pool.submit(ready_after, lambda: [machine.log for machine in machines], count, began)
        together(Plain.start, machines)
        times = {"ready": ready.result()}
    times["memory"] = sorted(resident_mb(pid) for pid, _ in running())
    times["stop"], _ = together(Plain.stop, machines)
    times["delete"], _ = together(lambda machine: shutil.rmtree(machine.folder), machines)
    return times


def measure_service(admin, servers, count):
    with ThreadPoolExecutor(max_workers=1) as pool:
        began = time.perf_counter()
        ready = pool.submit(ready_after, lambda: list(MACHINES.glob("main-*/console.log")), count, began)
        up, machines = together(lambda _: create(admin), range(count))
        times = {"ready": ready.result(), "up": up}
    times["memory"] = sorted(resident_mb(pid) for pid, _ in running())
    times["servers"] = [resident_mb(server.process.pid) for server in servers]
    times["stop"], _ = together(after(admin, "stopVirtualMachine", "STOPPED"), machines)
    times["delete"], _ = together(after(admin, "deleteVirtualMachine", "DELETED"), machines)
    if running() or list(MACHINES.glob("main-*")):
        raise RuntimeError("something of the machines is left")
    return times


def model_of(admin):
    """A machine of the service: its folder, copied, and its arguments."""
    machine = create(admin)
    (_, line), = running()
    folder = MACHINES / f"main-{machine}"
    copy = RUN / "model" / folder.name
    shutil.copytree(folder, copy, ignore=lambda _, names: [name for name in names if name in ("qmp", "tty", "vnc")])
    after(admin, "deleteVirtualMachine", "DELETED")(machine)
    return copy, [word.replace(str(folder), str(copy)) for word in line]


def show(plain, service):
    print(f"{'':46}{'plain QEMU':>12}{'service':>12}{'ratio':>9}")

    def row(name, ours, theirs=None):
        ratio = "" if theirs is None else f"{ours / theirs:9.3f}"
        print(f"{name:46}{'' if theirs is None else f'{theirs:.3f}':>12}{ours:12.3f}{ratio}")

    for key, name in [("ready", "guest ready, s"), ("stop", "stopped, s"), ("delete", "deleted, s"),
                      ("memory", "RSS of a QEMU, MiB")]:
        for which, of in [("first", min), ("median", statistics.median), ("last", max)]:
            row(f"{name}: {which}", of(service[key]), of(plain[key]))
    for which, of in [("first", min), ("median", statistics.median), ("last", max)]:
        row(f"create until RUNNING over the API, s: {which}", of(service["up"]), of(plain["ready"]))
    for name, memory in zip(("web", "worker"), service["servers"]):
        row(f"RSS of the {name}, MiB", memory)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10)
    count = parser.parse_args().count
    settings = {"PORT": str(PORT), "SECRET_KEY": "k" * 32, "ADMIN_PASSWORD": PASSWORD, "PROVIDER": "simulated",
                "DATABASE_URL": os.environ["DATABASE_URL"], "REDIS_URL": os.environ["REDIS_URL"],
                "MACHINE_PROVIDER": "qemu", "MACHINE_DIR": str(MACHINES), "MACHINE_ACCEL": os.environ["ACCEL"],
                "MACHINE_IMAGE_DIR": os.environ["TEST_QEMU_IMAGES"], "MACHINE_DISK_RESERVE_MEBIBYTES": "0",
                "MACHINES_PER_OWNER": "1000", "DATA_DIR": str(RUN), "LOG": "warn"}
    environment = {"PATH": os.environ["PATH"], **settings}
    binary = os.environ["BINARY"]

    def is_ready():
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200

    try:
        with Server([binary, "web"], environment, RUN, RUN / "web.log") as web:
            web.wait_for(is_ready)
            with Server([binary, "worker"], environment, RUN, RUN / "worker.log") as worker:
                admin = log_in()
                put_image(admin)
                # The first of all also warms up what both read.
                model = model_of(admin)
                plain = measure_plain(model, count)
                service = measure_service(admin, (web, worker), count)
                print(f"{count} machines of each, {os.environ['ACCEL']}, {os.cpu_count()} processors")
                show(plain, service)
    finally:
        for pid, _ in running():
            os.kill(pid, signal.SIGKILL)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
main()
