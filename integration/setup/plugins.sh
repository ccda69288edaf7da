#!/usr/bin/env bash
# Builds an NRI plugin that sets CPUs, with the Go stub of the NRI project, for the test of two plugins that meet. (nri-plugins' balloons
# and topology-aware would do; Go's module proxy does not hand that module out.) What cannot be had is said, and its test is skipped.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/target/plugins

if [[ -x "$target/pins" ]]; then
    exit
fi
mkdir -p "$target"
rm -f "$target/no-pins"
if ! command -v go >/dev/null; then
    echo "Go is not installed" >"$target/no-pins"
else
    work=$target/work
    mkdir -p "$work"
    cp "$root"/integration/setup/pins/* "$work"/
    echo "setup: building an NRI plugin with Go"
    if ! (cd "$work" && GOFLAGS=-mod=mod CGO_ENABLED=0 timeout 900 go build -trimpath -ldflags '-s -w' -o "$target/pins" .) 2>"$work/log"; then
        tail -n 1 "$work/log" | tr -d '\t' >"$target/no-pins"
    fi
fi
if [[ -e "$target/no-pins" ]]; then
    echo "setup: note: no second NRI plugin ($(cat "$target/no-pins")); its test is skipped"
fi
