#!/usr/bin/env bash
# What is not Rust: shell scripts, image, compose and stack files, manifests, workflows. Needs shellcheck, yamllint and what
# tests/tools.txt names.
set -u -o pipefail
cd "$(dirname "$0")/../.." || exit 1
. tests/package.sh
FOLDER="$(mktemp -d)"
trap 'rm -rf "$FOLDER"' EXIT
FAILED=0

# check WHAT COMMAND…: says only what is wrong.
check() {
    local what="$1"
    shift
    "$@" >"$FOLDER/said" 2>&1 && return 0
    echo "lint: $what" && cat "$FOLDER/said"
    FAILED=1
}

# kubernetes OVERLAY VERSION: what the overlay makes, as that version of Kubernetes reads it. Kinds of others are left out.
kubernetes() {
    kubectl kustomize "docker/kubernetes/overlays/$1" >"$FOLDER/all.yaml" &&
        awk -v RS='---\n' -v ORS='---\n' '!/monitoring\.coreos\.com/' "$FOLDER/all.yaml" >"$FOLDER/core.yaml" &&
        kubernetes-validate --strict --quiet --kubernetes-version "$2" "$FOLDER/core.yaml"
}

mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
check "shell scripts" shellcheck --severity=warning --external-sources --source-path=SCRIPTDIR:. "${scripts[@]}"
check "images" hadolint docker/Dockerfile docker/heroku/Dockerfile.*
check "YAML" yamllint --strict -d '{extends: relaxed, rules: {line-length: disable}}' \
    docker .github .pre-commit-config.yaml
# Actions and images go by their versions, which dependabot raises.
check "workflows" jactionlint --ignore 'must be pinned|is pinned by a tag|poisoned cache' .github/workflows/*.yml
check "pre-commit" pre-commit validate-config
read -r -a compose <<<"$(compose)"
# The stack reads docker/.env, which a clean clone has not.
cp -r docker "$FOLDER/docker" && cp docker/.env.example "$FOLDER/docker/.env"
for reload in '' 1; do
    check "compose, HOT_RELOAD='$reload'" env HOT_RELOAD=$reload SECRET_KEY=x POSTGRES_PASSWORD=x "${compose[@]}" \
        --env-file "$FOLDER/docker/.env" -f "$FOLDER/docker/docker-compose.yml" --profile agent --profile telemetry config --quiet \
        --no-env-resolution
done
check "stack" env IMAGE=main-webserver docker stack config -c docker/stack.yml
for overlay in staging prod; do
    for version in 1.30 1.37; do check "Kubernetes $version, $overlay" kubernetes "$overlay" "$version"; done
done
exit $FAILED
