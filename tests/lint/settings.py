"""Whether what deploys the service and the service mean the same settings. Usage: settings.py BINARY

Every setting that a file of docker/ names is one that the binary knows, and each form of deployment sets those that
processes on more than one machine cannot do without.
"""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
# Either of these says where the database is.
DATABASE = ({"DATABASE_URL"}, {"POSTGRES_HOST", "POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"})
REQUIRED = {"SECRET_KEY", "REDIS_URL", "HOST", "PORT", "LOG_FORMAT"}
problems = []


def words_of_help(binary: str, *command: str) -> set[str]:
    text = subprocess.run([binary, *command, "--help"], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"^ +([A-Z][A-Z0-9_]{2,}) ", text, re.M)) | set(re.findall(r"\[env: ([A-Z_]+)", text))


def names(environment) -> set[str]:
    """The settings an environment sets, whether by value or by a file."""
    given = environment if isinstance(environment, dict) else dict.fromkeys(pair.split("=")[0] for pair in environment)
    return {re.sub(r"_FILE$", "", name) for name in given}


def check(where: str, given: set[str], known: set[str], role: str) -> None:
    problems.extend(f"{where}: {name} is no setting" for name in sorted(given - known))
    if role == "agent":
        return
    wanted = REQUIRED | ({"METRICS_PORT"} if role == "worker" else set())
    problems.extend(f"{where}: {name} is not set" for name in sorted(wanted - given))
    if not any(form <= given for form in DATABASE):
        problems.append(f"{where}: the database is not set")


def example() -> tuple[set[str], set[str]]:
    """docker/.env.example: the settings of the service, and those of the stack alone."""
    service, stack = (ROOT / "docker/.env.example").read_text().split("# ── The rest")
    read = lambda text: set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", text, re.M))  # noqa: E731
    return read(service), read(stack)


def compose_files(known: set[str], agent: set[str]) -> None:
    of_service, of_stack = example()
    problems.extend(f"docker/.env.example: {name} is no setting" for name in sorted(of_service - known))
    texts = "".join((ROOT / "docker" / name).read_text() for name in ("docker-compose.yml", "service.yml"))
    asked = set(re.findall(r"\$\{([A-Z_]+)", texts))
    problems.extend(f"docker/.env.example: {name} is not there" for name in sorted(asked - of_service - of_stack))
    base = yaml.safe_load((ROOT / "docker/service.yml").read_text())["services"]["service"]["environment"]
    stack = yaml.safe_load((ROOT / "docker/docker-compose.yml").read_text())["services"]
    for role in ("web", "worker", "agent"):
        given = names(base) | names(stack[role].get("environment", {}))
        check(f"docker/docker-compose.yml, {role}", given, known | agent, role)


def stack_file(known: set[str]) -> None:
    stack = yaml.safe_load((ROOT / "docker/stack.yml").read_text())["services"]
    for role in ("web", "worker"):
        check(f"docker/stack.yml, {role}", names(stack[role]["environment"]), known, role)


def kubernetes(known: set[str]) -> None:
    for overlay in sorted((ROOT / "docker/kubernetes/overlays").iterdir()):
        printed = subprocess.run(["kubectl", "kustomize", str(overlay)], check=True, capture_output=True, text=True).stdout
        objects = list(yaml.safe_load_all(printed))
        config = next(one for one in objects if one["kind"] == "ConfigMap")["data"]
        for one in objects:
            if one["kind"] in ("Deployment", "Job"):
                for container in one["spec"]["template"]["spec"]["containers"]:
                    given = names(config) | names({entry["name"]: "" for entry in container["env"]})
                    check(f"{overlay.relative_to(ROOT)}, {container['name']}", given, known, container["name"])


def main() -> None:
    known = words_of_help(sys.argv[1])
    agent = words_of_help(sys.argv[1], "agent")
    if not {"SECRET_KEY", "DATABASE_URL", "METRICS_PORT"} <= known or "AGENT_SERVER" not in agent:
        sys.exit("settings.py: --help does not list the settings as it did")
    compose_files(known, agent)
    stack_file(known)
    kubernetes(known)
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


main()
