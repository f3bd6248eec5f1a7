#!/bin/sh
# Writes requirements/*.txt from pyproject.toml, the one source of what is installed (make
# requirements). Versions that are pinned stay; arguments go to uv, as in
# ARGS=--upgrade or ARGS="--upgrade-package numpy". Each file is complete, so that pip can check
# every hash, and has the versions of the files before it.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
export UV_CUSTOM_COMPILE_COMMAND="make requirements"

compile() { # compile NAME CONSTRAINTS ARGUMENTS...
    name=$1 constraints=
    for file in $2; do constraints="$constraints --constraint requirements/$file.txt"; done
    shift 2
    # shellcheck disable=SC2086
    "$uv" pip compile --quiet --universal --python-version 3.11 --no-emit-package optserve \
        --no-emit-index-url --no-emit-find-links --no-annotate $constraints \
        --output-file "requirements/$name.txt" "$@"
}

server=pyproject.toml
client=clients/python/pyproject.toml
quick="--extra numba --extra uvloop"
hashes=--generate-hashes
# All but torch, whose wheels differ by platform.
extras="--extra cli --extra fsspec --extra gpu --extra mlflow --extra numba --extra otel --extra plot --extra progress"
extras="$extras --extra tensorboard --extra uvloop"

compile build "" $hashes --group build "$@"
compile runtime build $hashes $server $client $extras "$@"
compile demo runtime $hashes $server $client $quick --group build --group demo "$@"
compile test demo $hashes $server $client $quick --extra otel --group test "$@"
compile browser "test" $hashes $server $client $quick --extra otel --group test --group browser "$@"
compile fuzz "test" $hashes $server $client $quick --extra otel --group test --group fuzz "$@"
compile docs "runtime demo" $hashes $server $client --group docs "$@"
compile check "test docs" $hashes $server $client $quick --extra otel --group check "$@"
compile frameworks "runtime demo" $server $client $quick --group build --group frameworks "$@"
compile bench "runtime demo" $server $client $quick --group build --group demo --group bench "$@"
compile flower "" requirements/flower.in "$@"
