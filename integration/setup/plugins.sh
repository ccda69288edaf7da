#!/usr/bin/env bash
# Builds with Go what some tests need beside Ringway, below target/plugins: "pins", an NRI plugin that sets CPUs, with the Go stub of the
# NRI project, for the test of two plugins that meet (nri-plugins' balloons and topology-aware would do; Go's module proxy does not hand
# that module out), and "cdi-check", which judges files of CDI. What cannot be had is said, and its test is skipped.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/target/plugins

for program in pins cdi-check; do
    if [[ -x "$target/$program" ]]; then
        continue
    fi
    work=$target/$program.work
    mkdir -p "$work"
    rm -f "$target/no-$program"
    if ! command -v go >/dev/null; then
        echo "Go is not installed" >"$target/no-$program"
    else
        cp "$root/integration/setup/$program"/* "$work"/
        echo "setup: building $program with Go"
        if ! (cd "$work" && GOFLAGS=-mod=mod CGO_ENABLED=0 timeout 900 go build -trimpath -ldflags '-s -w' -o "$target/$program" .) 2>"$work/log"; then
            tail -n 1 "$work/log" | tr -d '\t' >"$target/no-$program"
        fi
    fi
    if [[ -e "$target/no-$program" ]]; then
        echo "setup: note: no $program ($(cat "$target/no-$program")); its test is skipped"
    fi
done
