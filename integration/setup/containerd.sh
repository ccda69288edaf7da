#!/usr/bin/env bash
# Fetches containerd from newer Debian suites and unpacks it below target/containerd; nothing is installed. Debian 12's own (1.6) is
# too old for NRI; these packages need nothing that Debian 12 lacks.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/target/containerd
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The mirror this machine already uses for Debian.
mirror() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 == "bookworm" && $3 == "main" { print $1; exit }'
}

fetch() { # line, suite
    local line=$1 suite=$2 work version
    if [[ -x "$target/$line/usr/bin/containerd" ]]; then
        return
    fi
    echo "setup: fetching containerd for $line from Debian $suite"
    work=$target/apt-$suite
    rm -rf "$work"
    mkdir -p "$work"/{none,state/lists/partial,cache/archives/partial,deb}
    : >"$work/status"
    local uri
    uri=$(mirror)
    if [[ -z "$uri" ]]; then
        echo "setup: apt knows no source for Debian bookworm main, so there is no mirror to fetch $suite from; add one and run apt-get update" >&2
        exit 1
    fi
    echo "deb [signed-by=$keyring] $uri $suite main" >"$work/sources.list"
    local apt=(
        apt-get -qq
        -o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=$work/none" -o "Dir::Etc::preferencesparts=$work/none"
        -o "Dir::State=$work/state" -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache"
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o APT::Sandbox::User=root
    )
    "${apt[@]}" update
    (cd "$work/deb" && "${apt[@]}" download containerd)
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
