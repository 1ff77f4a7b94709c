#!/usr/bin/env bash
# Install what is missing of the servers that tests and benchmarks run against:
#   Ceph's S3 gateway and nginx, with apt; Azurite, with npm, into .cache/servers/azurite.
# Does nothing where all are there. Where one cannot be installed it says so, and its tests skip;
# with CI=true that is a failure.
set -euo pipefail
cd "$(dirname "$0")/../.."

AZURITE_VERSION=3.35.0  # the newest that runs on the Node.js of Debian's stable releases
AZURITE=.cache/servers/azurite
POLICY=/usr/sbin/policy-rc.d
PATH=$PATH:/usr/sbin:/sbin
missing=()
own_policy=
part=

clean_up() {
    [ -z "$own_policy" ] || as_root rm -f $POLICY
    [ -z "$part" ] || rm -rf "$part"
}
trap clean_up EXIT

have() {
    local command
    for command in "$@"; do command -v "$command" >/dev/null || return 1; done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_apt() {
    have apt-get && { [ "$(id -u)" = 0 ] || { have sudo && sudo -n true 2>/dev/null; }; }
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet --yes \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"
}

# Once more with new lists: old ones, or none, name packages that cannot be found any more.
apt_install() {
    apt_get install --no-install-recommends "$@" >/dev/null 2>&1 && return
    apt_get update && apt_get install --no-install-recommends "$@" >/dev/null
}

# Packages of servers start them, on ports of their own choice: not here.
forbid_starting() {
    [ -e $POLICY ] && return
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' | as_root tee $POLICY >/dev/null
    as_root chmod 755 $POLICY
}

install_packages() {
    local packages=()
    have ceph ceph-authtool ceph-mon ceph-osd monmaptool radosgw radosgw-admin ||
        packages+=(ceph-common ceph-mon ceph-osd radosgw)
    have nginx || packages+=(nginx-light)
    have openssl || packages+=(openssl)
    have node npm || packages+=(nodejs npm)
    [ ${#packages[@]} = 0 ] && return
    echo "servers: installing ${packages[*]}"
    if can_apt && forbid_starting && apt_install "${packages[@]}"; then return; fi
    missing+=("${packages[@]}")
}

azurite_is_there() {
    grep -qs "\"version\": \"$AZURITE_VERSION\"" $AZURITE/node_modules/azurite/package.json
}

# Into a folder beside it, and renamed when whole: what was interrupted is not taken for installed.
install_azurite() {
    azurite_is_there && return
    echo "servers: installing azurite $AZURITE_VERSION"
    mkdir -p .cache/servers
    part=$(mktemp -d .cache/servers/azurite.XXXXXX)
    if have npm && npm install --prefix "$part" --no-save --no-package-lock --no-audit --no-fund \
        --ignore-scripts --fetch-retries=1 --loglevel=error "azurite@$AZURITE_VERSION"; then
        rm -rf $AZURITE
        mv "$part" $AZURITE
    else
        missing+=("azurite@$AZURITE_VERSION (npm)")
    fi
}

install_packages
install_azurite
if [ ${#missing[@]} != 0 ]; then
    echo "servers: could not install ${missing[*]}; tests that need them skip" >&2
    [ "${CI:-}" != true ]
fi
