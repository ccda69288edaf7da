#!/usr/bin/env bash
# Fetches what starts containers beside CRI (crun, podman, Docker, and Debian 12's own containerd, which has no NRI) and unpacks it below
# target/managers; nothing is installed, no service starts. What cannot be had is said, and its tests are skipped.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/target/managers

if [[ ! -e "$target/done" ]]; then
    echo "setup: fetching crun, podman, docker and containerd 1.6"
    rm -rf "$target"
    mkdir -p "$target"/{deb,containerd-1.6}
    packages=(
        crun libyajl2
        podman conmon libgpgme11 libsubid4 golang-github-containers-common golang-github-containers-image
        docker.io tini iptables libip6tc2 libnfnetlink0 libnetfilter-conntrack3 libnftnl11
    )
    if (cd "$target/deb" && apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}" containerd/bookworm); then
        for file in "$target"/deb/*.deb; do
            case ${file##*/} in
                containerd_*) dpkg-deb -x "$file" "$target/containerd-1.6" ;;
                *) dpkg-deb -x "$file" "$target" ;;
            esac
        done
        touch "$target/done"
    else
        echo "setup: note: apt does not give them all; the tests with podman, Docker and containerd 1.6 are skipped"
    fi
    rm -rf "$target/deb"
fi

# nerdctl is in no Debian suite; Go builds it from what its module proxy serves, all but one module of its test helpers (nerdctl/tigron).
nerdctl=$target/usr/bin/nerdctl
if [[ "$root/integration/setup/nerdctl/go.mod" -nt "$target/no-nerdctl" ]]; then
    rm -f "$target/no-nerdctl"
fi
if [[ ! -x "$nerdctl" && ! -e "$target/no-nerdctl" ]]; then
    if ! command -v go >/dev/null; then
        echo "Go is not installed" >"$target/no-nerdctl"
    else
        work=$target/nerdctl
        rm -rf "$work"
        cp -r "$root/integration/setup/nerdctl" "$work"
        echo "setup: building nerdctl with Go"
        if ! (cd "$work" && GOFLAGS=-mod=mod CGO_ENABLED=0 timeout 900 go build -trimpath -ldflags '-s -w' -o "$nerdctl" \
            github.com/containerd/nerdctl/v2/cmd/nerdctl) 2>"$work/log"; then
            tail -n 1 "$work/log" | tr -d '\t' >"$target/no-nerdctl"
        fi
    fi
fi
if [[ -e "$target/no-nerdctl" ]]; then
    echo "setup: note: no nerdctl ($(cat "$target/no-nerdctl")); its tests are skipped"
fi
