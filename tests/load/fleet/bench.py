"""Times containers of the service beside `docker run`, one after the other in turn, and prints a table."""

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "graphql"))
from processes import Server  # noqa: E402  (the folder of the other benchmark)

PORT = int(subprocess.check_output(
    [sys.executable, "-c", "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"]))
PASSWORD = "correct horse battery"
POOL = 20
SERVE = 'mkdir -p /tmp/www && echo "Hello from $CONTAINER_ID" > /tmp/www/index.html && exec busybox httpd -f -p 8080 -h /tmp/www'
# What the service asks the engine for, word for word.
DOCKER_RUN = ["docker", "run", "-d", "--init", "--memory", "64m", "--cpus", "0.25", "--pids-limit", "4096",
              "-p", "127.0.0.1::8080", "--label", "a=b", "-e", "CONTAINER_ID=x", "busybox:1.37", "sh", "-c", SERVE]


class Client:
    """One person over one connection."""

    def __init__(self, token=None):
        self.token = token
        self.connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)

    def ask(self, query, **variables):
        headers = {"content-type": "application/json"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        body = json.dumps({"query": query, "variables": variables})
        self.connection.request("POST", "/graphql", body, headers)
        answer = json.load(self.connection.getresponse())
        if "errors" in answer:
            raise RuntimeError(answer["errors"])
        return answer["data"]

    def running(self, container):
        """Watches the container, as a client does, until it runs."""
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        query = f'subscription {{ containerUpdated(id: "{container}") {{ state failure {{ reason }} }} }}'
        headers = {"content-type": "application/json", "accept": "text/event-stream",
                   "authorization": f"Bearer {self.token}"}
        connection.request("POST", "/graphql", json.dumps({"query": query}), headers)
        answer = connection.getresponse()
        for line in answer:
            if line.startswith(b"data:") and line.strip() != b"data:":
                state = json.loads(line[5:])["data"]["containerUpdated"]
                if state["state"] == "RUNNING":
                    connection.close()
                    return
                if state["state"] == "FAILED":
                    raise RuntimeError(state)
        raise RuntimeError("the stream ended")


def log_in(email, password):
    data = Client().ask("mutation($input: LogInInput!) { logIn(input: $input) { accessToken } }",
                        input={"email": email, "password": password})
    return Client(data["logIn"]["accessToken"])


def timed(work):
    began = time.perf_counter()
    result = work()
    return (time.perf_counter() - began) * 1000, result


def create(person):
    data = person.ask('mutation { createContainer(input: {app: "hello", region: "us-east-1"}) { container { id } } }')
    container = data["createContainer"]["container"]["id"]
    person.running(container)
    return container


def assign(person):
    data = person.ask('mutation { assignContainer(input: {app: "hello", region: "us-west-1"}) { warm container { id state } } }')
    got = data["assignContainer"]
    if not got["warm"] or got["container"]["state"] != "RUNNING":
        raise RuntimeError(f"the pool was empty: {got}")
    return got["container"]["id"]


def fill(admin):
    count = """{ containers(filter: {assignedAt: {isNull: true}, state: {eq: RUNNING}}) { totalCount } }"""
    while admin.ask(count)["containers"]["totalCount"] < POOL:
        time.sleep(0.2)


def delete(person, container):
    person.ask("mutation($input: DeleteContainerInput!) { deleteContainer(input: $input) { task { id } } }",
               input={"id": container})
    state = "query($id: ID!) { container(id: $id) { state } }"
    while person.ask(state, id=container)["container"]["state"] != "DELETED":
        time.sleep(0.05)


def percentile(times, share):
    times = sorted(times)
    return times[min(len(times) - 1, int(len(times) * share))]


def measure(rounds):
    admin = log_in("admin@localhost", PASSWORD)
    admin.ask(f'mutation {{ setWarmPool(input: {{app: "hello", region: "us-west-1", size: {POOL}}}) {{ task {{ id }} }} }}')
    fill(admin)
    created, ran, assigned = [], [], []
    for turn in range(rounds + 3):
        # In turn, and the first of a pair in turn as well.
        pair = [("run", lambda: subprocess.check_output(DOCKER_RUN, text=True).strip()), ("create", lambda: create(admin))]
        for name, work in pair if turn % 2 else reversed(pair):
            took, made = timed(work)
            # The first rounds warm everything up.
            if turn >= 3:
                (ran if name == "run" else created).append(took)
            if name == "run":
                subprocess.check_call(["docker", "rm", "-f", made], stdout=subprocess.DEVNULL)
            else:
                delete(admin, made)
    for _ in range(rounds):
        took, container = timed(lambda: assign(admin))
        assigned.append(took)
        delete(admin, container)
        fill(admin)
    print(f"{'':34}{'p50 ms':>9}{'p99 ms':>9}{'p50 ratio':>11}{'p99 ratio':>11}")
    for name, times in [("docker run -d", ran), ("createContainer until RUNNING", created),
                        ("assignContainer from a warm pool", assigned)]:
        half, most = percentile(times, 0.5), percentile(times, 0.99)
        print(f"{name:34}{half:9.1f}{most:9.1f}{half / percentile(ran, 0.5):11.3f}{most / percentile(ran, 0.99):11.3f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    run = os.environ["RUN"]
    settings = {"PORT": str(PORT), "SECRET_KEY": "k" * 32, "ADMIN_PASSWORD": PASSWORD, "PROVIDER": "docker",
                "DATABASE_URL": os.environ["DATABASE_URL"], "REDIS_URL": os.environ["REDIS_URL"],
                "DOCKER_HOST": os.environ["DOCKER_HOST"], "DATA_DIR": run, "LOG": "warn"}
    environment = {"PATH": os.environ["PATH"], **settings}
    binary = os.environ["BINARY"]
    with Server([binary, "web"], environment, run, f"{run}/web.log") as web:
        def is_ready():
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        web.wait_for(is_ready)
        with Server([binary, "worker"], environment, run, f"{run}/worker.log"):
            measure(rounds)


main()
