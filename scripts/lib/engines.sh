# What tests/engines need on a fresh Debian 12 or 13: packages, Python packages, and the other release's engines in a
# cached root. Sourced; `engines_setup PYTHON` does it all, PYTHON being the interpreter that will run the tests.

# shellcheck shell=bash
engines_say() { printf '== %s\n' "$*"; }

# shellcheck source=/dev/null
engines_release() { (. /etc/os-release && echo "${VERSION_CODENAME:-}"); }

# Podman with a CNI backend is Debian 12's; elsewhere it comes from a Debian 12 root.
engines_packages() {
    local packages="containerd runc busybox-static debootstrap iproute2 nftables iptables curl procps util-linux"
    if [ "$(engines_release)" = bookworm ]; then packages+=" podman"; fi
    echo "$packages"
}

# The packages' daemons would start in the machine's own network; the tests start their own.
engines_apt() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [ -e "$policy" ]; then policy=; else printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"; fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || status=$?
    if [ -n "$policy" ]; then rm "$policy"; fi
    return "$status"
}

engines_setup() {
    local python=$1 packages tests
    read -ra packages <<<"$(engines_packages)"
    tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../tests" && pwd)
    engines_say "engines to test with: ${packages[*]}"
    engines_apt "${packages[@]}"
    engines_say "Python packages to drive containerd's CRI: grpcio, container-runtime-interface-api"
    "$python" -m pip install -q --disable-pip-version-check grpcio container-runtime-interface-api
    if [ "$(engines_release)" != bookworm ]; then
        engines_say "Podman 4 in a Debian 12 root below ${NETDRIVERS_CACHE:-/var/cache/netdrivers-tests} (a minute, once)"
        (cd "$tests" && "$python" -m engines.rootfs debian12) ||
            engines_say "the root could not be built; tests that need it will be skipped and counted"
    fi
}
