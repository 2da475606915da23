"""Whether a server's answer is the right one, whatever form it gives to ids, states and times."""

import http.client
import json
from datetime import datetime, timezone


def ask(port, request):
    """The status and the JSON of the answer to one request."""
    method, path, body, authorization = request
    headers = {"accept": "application/json"}
    if body is not None:
        headers["content-type"] = "application/json"
    if authorization:
        headers["authorization"] = authorization
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body and json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(error) from error
    finally:
        connection.close()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text.decode(errors="replace")


def check(port, target, user, expected):
    """Raises unless the target answers with `expected`, the database's own rows."""
    status, answer = ask(port, target.request(user))
    try:
        given = [normalised(node) for node in nodes(answer)] if status == 200 else None
    except (KeyError, TypeError, ValueError):
        given = None
    if given is None:
        raise RuntimeError(f"{target.name} answered with {status}: {str(answer)[:1000]}")
    wanted = [normalised(node) for node in expected]
    if given != wanted:
        differing = next((pair for pair in zip(given, wanted) if pair[0] != pair[1]), None)
        raise RuntimeError(f"{target.name} answered {len(given)} of {len(wanted)} rows, and {differing}")


def nodes(answer):
    """The containers of a GraphQL answer or a REST resource."""
    return answer["data"]["containers"]["nodes"] if "data" in answer else answer["nodes"]


def normalised(node):
    return {
        "id": node["id"].removeprefix("container_").replace("-", ""),
        "state": node["state"].lower(),
        "dpi": node["dpi"],
        "createdAt": datetime.fromisoformat(node["createdAt"]).astimezone(timezone.utc),
        "app": node["app"]["name"],
        "owner": node["owner"]["email"],
    }
