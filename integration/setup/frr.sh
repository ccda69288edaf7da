#!/usr/bin/env bash
# Fetches FRR (zebra, bgpd, bfdd, vtysh) and tshark with their libraries and unpacks them below target/frr; nothing is installed, no service
# starts, no user is made. What cannot be had is said, and the tests that need it are skipped.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/target/frr
declare -A packages=(
    [frr]="frr libyang2 libjson-c5 libc-ares2 libcap2 libpcre2-8-0 libreadline8"
    [tshark]="tshark wireshark-common libwireshark16 libwireshark-data libwiretap13 libwsutil14 libc-ares2 liblua5.2-0 libsmi2ldbl
        libsnappy1v5 libspeexdsp1 libnl-3-200 libnl-genl-3-200 libnl-route-3-200 libpcap0.8 libmaxminddb0 libopus0 libbcg729-0
        libsbc1 libspandsp2 libnghttp2-14 libbrotli1 libssh-gcrypt-4 libxml2"
)

if [[ -e "$target/done" ]]; then
    exit 0
fi
rm -rf "$target"
mkdir -p "$target/deb"
for wanted in "${!packages[@]}"; do
    # Libraries that this machine has already are not fetched.
    missing=()
    for package in ${packages[$wanted]}; do
        if [[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]]; then
            missing+=("$package")
        fi
    done
    echo "setup: fetching ${missing[*]}"
    if ! (cd "$target/deb" && apt-get -qq -o APT::Sandbox::User=root download "${missing[@]}" 2>"$target/log"); then
        echo "setup: note: apt does not give $wanted ($(tail -n 1 "$target/log")); the tests with it are skipped"
    fi
done
for file in "$target"/deb/*.deb; do
    if [[ -e "$file" ]]; then
        dpkg-deb -x "$file" "$target"
    fi
done
rm -rf "$target/deb"
touch "$target/done"
