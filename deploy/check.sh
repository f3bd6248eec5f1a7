#!/bin/sh
# Checks alert rules, systemd unit and manifests with the tools of those who use them (make check-deploy):
# promtool (Debian's package prometheus), systemd-analyze, kustomize and kubernetes-validate.
# KUSTOMIZE and BIN say where kustomize and the environment's programs are.
set -eu
cd "$(dirname "$0")/.."
for tool in promtool systemd-analyze; do
    command -v "$tool" >/dev/null || { echo "deploy/check.sh needs $tool, which was not found" >&2; exit 1; }
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

promtool check rules deploy/prometheus/alerts.yaml
promtool test rules deploy/prometheus/alerts_test.yaml

# systemd looks for the programs, which are elsewhere on this machine. It states mistakes, and exits with 0.
unit=$scratch/optserve-server.service
sed "s#/opt/optserve/bin#$(realpath "${BIN:-.venv/bin}")#" deploy/systemd/optserve-server.service >"$unit"
mkdir "$unit.d"
cp deploy/systemd/gpu.conf "$unit.d"
status=0
systemd-analyze verify --man=no "$unit" 2>"$scratch/mistakes" || status=$?
if grep . "$scratch/mistakes" >&2 || [ "$status" -ne 0 ]; then exit 1; fi
# 0 is no exposure, 100 is all; the network, which a server needs, is 11 of it.
systemd-analyze security --offline=yes --no-pager --threshold=20 deploy/systemd/optserve-server.service \
    >"$scratch/exposure" || { cat "$scratch/exposure" >&2; exit 1; }
tail -n 1 "$scratch/exposure"

for folder in deploy/kubernetes deploy/prometheus/kubernetes; do
    "${KUSTOMIZE:-kustomize}" build "$folder" >"$scratch/manifests.yaml"
    "${BIN:-.venv/bin}/kubernetes-validate" --strict --quiet --no-warn "$scratch/manifests.yaml"
done
