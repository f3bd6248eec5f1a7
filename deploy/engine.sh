#!/bin/sh
# Prints which of docker, podman and buildah is there and answers; ENGINE=... chooses one.
set -eu

answers() {
    case $1 in
    docker) docker version ;; # its client alone is no engine
    *) "$1" info ;;
    esac >/dev/null 2>&1
}

for engine in ${ENGINE:-docker podman buildah}; do
    if answers "$engine"; then
        echo "$engine"
        exit 0
    fi
done
echo "neither docker nor podman nor buildah is there and answers" >&2
exit 1
