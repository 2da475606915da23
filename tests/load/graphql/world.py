"""The data of a run: its users, each with a token of the product, and their containers."""

import http.client
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROWS = 50
SIGN_UP = """mutation SignUp($email: String!) {
  signUp(input: {email: $email, name: "Reader", password: "correct horse battery"}) { accessToken user { id } }
}"""
# The answer by the database's own word, for `answers.normalised`.
NEWEST = f"""SELECT coalesce(json_agg(json_build_object('id', c.id, 'state', c.state, 'dpi', c.dpi,
    'createdAt', c.created_at, 'app', json_build_object('name', a.name),
    'owner', json_build_object('email', o.email)) ORDER BY c.id DESC), '[]')
  FROM (SELECT * FROM container WHERE owner_id = '%s' ORDER BY id DESC LIMIT {ROWS}) AS c
  JOIN app a ON a.id = c.app_id JOIN account o ON o.id = c.owner_id"""


@dataclass(frozen=True)
class User:
    id: str
    """The bare UUID, as 32 digits."""
    token: str


def sign_up(port, count):
    """Opens `count` accounts at the product on `port`."""

    def one(number):
        variables = {"email": f"reader-{number}@example.com"}
        body = json.dumps({"query": SIGN_UP, "variables": variables})
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/graphql", body, {"content-type": "application/json"})
        answer = json.load(connection.getresponse())
        connection.close()
        if "errors" in answer:
            raise RuntimeError(f"signing up failed: {answer}")
        made = answer["data"]["signUp"]
        return User(made["user"]["id"].removeprefix("user_"), made["accessToken"])

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, range(count)))


def fill(database, containers):
    """Adds the apps, and `containers` containers spread over all users."""
    seed = Path(__file__).with_name("seed.sql")
    _psql(database, "-v", f"containers={containers}", "-f", str(seed))


def newest(database, user):
    """What everybody has to answer for this user."""
    return json.loads(_psql(database, "-c", NEWEST % user.id))


def _psql(database, *arguments):
    command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
