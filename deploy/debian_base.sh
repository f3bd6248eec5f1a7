#!/bin/sh
# Makes a base image with Python from Debian's packages, for machines that reach Debian's
# mirror but no registry of images. Needs root and debootstrap. The result trusts whom this
# machine trusts, so it is meant for this machine.
#
#   deploy/debian_base.sh [IMAGE] [SUITE]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
image=${1:-debian-python:bookworm}
suite=${2:-bookworm}

engine=$("$here/engine.sh")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$work/root"
rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/* \
    "$work"/root/var/log/* "$work"/root/usr/share/doc/* "$work"/root/usr/share/man/* \
    "$work"/root/usr/share/locale/*

# pip brings authorities of its own; here it is to trust the system's, which may have others.
bundle=/etc/ssl/certs/ca-certificates.crt
[ ! -e "$bundle" ] || cp --dereference "$bundle" "$work/root$bundle"
printf '[global]\ncert = %s\n' "$bundle" >"$work/root/etc/pip.conf"

mkdir "$work/context"
tar --create --file "$work/context/root.tar" --directory "$work/root" --numeric-owner .
cat >"$work/context/Dockerfile" <<'END'
FROM scratch
ADD root.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["bash"]
END
"$engine" build --tag "$image" "$work/context"
