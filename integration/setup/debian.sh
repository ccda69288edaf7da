# Sourced: packages of other Debian suites, unpacked and never installed.
# shellcheck shell=bash

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The mirror this machine already uses for Debian.
mirror() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 == "bookworm" && $3 == "main" { print $1; exit }'
}

# download SUITE PACKAGE WORK: the package of that suite, into WORK/deb.
download() {
    local suite=$1 package=$2 work=$3 uri
    rm -rf "$work"
    mkdir -p "$work"/{none,state/lists/partial,cache/archives/partial,deb}
    : >"$work/status"
    uri=$(mirror)
    if [[ -z "$uri" ]]; then
        echo "setup: apt knows no source for Debian bookworm main, so there is no mirror to fetch $suite from; add one and run apt-get update" >&2
        return 1
    fi
    echo "deb [signed-by=$keyring] $uri $suite main" >"$work/sources.list"
    local apt=(
        apt-get -qq
        -o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=$work/none" -o "Dir::Etc::preferencesparts=$work/none"
        -o "Dir::State=$work/state" -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache"
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o APT::Sandbox::User=root
    )
    "${apt[@]}" update && (cd "$work/deb" && "${apt[@]}" download "$package")
}
