#!/bin/sh
# Builds the server's image. Variables: IMAGE (its name), BASE_IMAGE and EXTRAS (as in the
# Dockerfile, whose defaults hold otherwise), ENGINE. Arguments go to the engine's build.
set -eu
cd "$(dirname "$0")/.."

engine=$(deploy/engine.sh)
version=$(cat clients/python/VERSION)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)

set -- "$@" --build-arg "VERSION=$version" --build-arg "REVISION=$revision"
[ -z "${BASE_IMAGE:-}" ] || set -- "$@" --build-arg "BASE_IMAGE=$BASE_IMAGE"
[ -z "${EXTRAS+stated}" ] || set -- "$@" --build-arg "EXTRAS=$EXTRAS"
# The OCI format has no place for a health check.
[ "$engine" = docker ] || set -- "$@" --format docker
exec "$engine" build "$@" --tag "${IMAGE:-optserve-server:$version}" .
