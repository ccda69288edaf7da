#!/usr/bin/env bash
# Builds with Go what some tests need beside Ringway, below target/plugins: "pins", an NRI plugin that sets CPUs, with the Go stub of the
# NRI project, for the test of two plugins that meet, and "cdi-check", which judges files of CDI; "balloons" of nri-plugins only
# when asked for, as it takes minutes. plugins.sh [PROGRAM...]. What cannot be had is said, and its test is skipped.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/target/plugins

programs=(pins cdi-check)
if (($# > 0)); then
    programs=("$@")
fi
for program in "${programs[@]}"; do
    if [[ -x "$target/$program" ]]; then
        continue
    fi
    package=.
    if [[ $program == balloons ]]; then
        package=github.com/containers/nri-plugins/cmd/plugins/balloons
    fi
    work=$target/$program.work
    mkdir -p "$target"
    rm -rf "$work" "$target/no-$program"
    if ! command -v go >/dev/null; then
        echo "Go is not installed" >"$target/no-$program"
    else
        cp -r "$root/integration/setup/$program" "$work"
        echo "setup: building $program with Go"
        if ! (cd "$work" && GOFLAGS="-mod=mod ${GOFLAGS:-}" CGO_ENABLED=0 timeout 900 go build -trimpath -ldflags '-s -w' \
            -o "$target/$program" "$package") 2>"$work/log"; then
            tail -n 1 "$work/log" | tr -d '\t' >"$target/no-$program"
        fi
    fi
    if [[ -e "$target/no-$program" ]]; then
        echo "setup: note: no $program ($(cat "$target/no-$program")); its test is skipped"
    fi
done
