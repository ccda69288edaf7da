#!/usr/bin/env bash
# Installs the Debian packages that building and running Ringway needs: only what is missing, nothing when all is there.
set -euo pipefail

packages=(
    build-essential pkg-config libclang-dev protobuf-compiler  # to build
    dpdk dpdk-dev libdpdk-dev                                  # DPDK and its testpmd
    runc busybox-static                                        # containers and their images
    iproute2 ethtool ca-certificates debian-archive-keyring
    containernetworking-plugins                                # host-local, an address plugin
    iperf3                                                     # traffic of applications without DPDK
    help2man                                                   # manual pages of the package
)

missing=()
for package in "${packages[@]}"; do
    if [[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]]; then
        missing+=("$package")
    fi
done
if ((${#missing[@]} == 0)); then
    exit 0
fi

if ((EUID != 0)); then
    echo "setup: as root, run: apt-get install ${missing[*]}" >&2
    exit 1
fi
echo "setup: installing ${missing[*]}"
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
