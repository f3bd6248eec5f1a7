#!/bin/sh
# Checks the first line of a commit message, in the file that git names: "area: imperative", at most
# 72 characters. Merges and reverts keep the subject that git gives them.
set -eu
subject=$(head -n 1 "$1")
case $subject in "Merge "* | "Revert "* | "fixup! "*) exit 0 ;; esac
printf '%s' "$subject" | grep -Eq '^[a-z0-9_./,-]+: [^ ].*[^.]$' || {
    echo "commit subject: expected 'area: imperative' without a full stop, got '$subject'" >&2
    exit 1
}
[ "$(printf '%s' "$subject" | wc -m)" -le 72 ] || {
    echo "commit subject: at most 72 characters, got $(printf '%s' "$subject" | wc -m)" >&2
    exit 1
}
