#!/usr/bin/env bash
# Installs what `make bench` measures Ringway against, from the distribution: testpmd (dpdk) and OVS-DPDK. Only what is missing. No
# service is started, now or at the next boot: the runner starts its own instances in directories of their own.
set -euo pipefail

packages=(dpdk openvswitch-switch-dpdk)
# Units of openvswitch-switch, which openvswitch-switch-dpdk brings along.
units=(openvswitch-switch.service ovsdb-server.service ovs-vswitchd.service)

installed() { # package
    [[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

missing=()
for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
    exit 0
fi
if ((EUID != 0)); then
    echo "bench: as root, run: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

# Debian starts daemons while it installs them unless this program says no (101). One that is there is left as it is.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 0755 "$policy"
fi
had_switch=no
installed openvswitch-switch && had_switch=yes

echo "bench: installing ${missing[*]}; nothing is started"
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null

# Whoever had Open vSwitch before uses it and keeps his units.
if [[ $had_switch == no ]] && command -v systemctl >/dev/null; then
    echo "bench: Open vSwitch is new here and does not start at boot; to change that: systemctl enable openvswitch-switch"
    systemctl --quiet disable "${units[@]}" 2>/dev/null || true
fi
