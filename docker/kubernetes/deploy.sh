#!/bin/bash
# deploy.sh OVERLAY IMAGE: the tables first, then the pods, and nothing said to be done before it is.
set -eu -o pipefail
[ $# = 2 ] || { echo "usage: $0 OVERLAY IMAGE" >&2 && exit 2; }
here="$(cd "$(dirname "$0")" && pwd)"
[ -d "$here/overlays/$1" ] || { echo "no overlay '$1'" >&2 && exit 2; }
all="$(mktemp)"
trap 'rm -f "$all"' EXIT
# The image is that of the call, whatever the overlay has.
kubectl kustomize "$here/overlays/$1" | sed "s|^\( *image: \).*main-webserver[:@].*|\1$2|" >"$all"
space="$(sed -n 's/^  namespace: //p' "$all" | head -1)"
kubectl --namespace "$space" delete job migrate --ignore-not-found
kubectl apply --filename "$all"
kubectl --namespace "$space" wait --for=condition=complete --timeout=3600s job/migrate
kubectl --namespace "$space" rollout status --timeout=900s deployment/web
kubectl --namespace "$space" rollout status --timeout=900s deployment/worker
