#!/usr/bin/env bash
# Fetches containerd from newer Debian suites and unpacks it below target/containerd; nothing is installed. Debian 12's own (1.6) is
# too old for NRI; these packages need nothing that Debian 12 lacks.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/target/containerd
. "$root/integration/setup/debian.sh"

fetch() { # line, suite
    local line=$1 suite=$2 work version
    if [[ -x "$target/$line/usr/bin/containerd" ]]; then
        return
    fi
    echo "setup: fetching containerd for $line from Debian $suite"
    work=$target/apt-$suite
    download "$suite" containerd "$work"
    version=$(dpkg-deb -f "$work"/deb/containerd_*.deb Version)
    case $version in
        "$line".*) ;;
        "${line%%.*}".*) echo "setup: note: Debian $suite now carries containerd $version, used in place of $line" ;;
        *)
            echo "setup: Debian $suite carries containerd $version, wanted $line; put one into $target/$line/usr/bin" >&2
            exit 1
            ;;
    esac
    rm -rf "$target/$line"
    mkdir -p "$target/$line.new"
    dpkg-deb -x "$work"/deb/containerd_*.deb "$target/$line.new"
    mv "$target/$line.new" "$target/$line"
    rm -rf "$work"
}

fetch 1.7 trixie
fetch 2.1 forky
