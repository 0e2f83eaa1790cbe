# Set-up shared by scripts/demo, scripts/test and scripts/bench: Debian packages and the virtual environment.
# To be sourced, from the top of the repository, as root on Debian 12 or 13.

say() { printf '\n==> %s\n' "$*"; }

VENV=${NETDRIVERS_VENV:-$PWD/.venv}

# Install what is missing of the given Debian packages.
packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null
    # No service may start: tests start what they need, in namespaces of their own.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=yes
    fi
    local failed=0
    apt-get install -q -y --no-install-recommends "${missing[@]}" >/tmp/netdrivers-apt.log 2>&1 || failed=$?
    [ -n "$made" ] && rm -f $policy
    if [ $failed -ne 0 ]; then
        tail -30 /tmp/netdrivers-apt.log >&2
        return $failed
    fi
}

# What running netdrivers and its namespaces needs.
base_packages() {
    packages python3 python3-venv python3-dev gcc libc6-dev nftables iptables iproute2 iputils-ping procps \
        util-linux curl busybox-static conntrack ca-certificates
}

# The virtual environment with this tree installed, and the given extras ("test", "test,iptables").
environment() {
    local python=${PYTHON:-python3} extras=$1 stamp
    stamp="$VENV/.stamp-$( (pwd; cat pyproject.toml) | sha256sum | cut -c1-16)-${extras//,/-}"
    if [ ! -e "$stamp" ]; then
        say "making the virtual environment with $($python --version)"
        rm -rf "$VENV"
        "$python" -m venv "$VENV"
        "$VENV/bin/pip" install -q --disable-pip-version-check -e ".[$extras]"
        touch "$stamp"
    fi
    # Our executables must not compile their modules at every call, wherever bytecode may not be written.
    env -u PYTHONDONTWRITEBYTECODE "$VENV/bin/python" -m compileall -q netdrivers
    export PATH="$VENV/bin:$PATH"
}

[ "$(id -u)" = 0 ] || { echo "root is needed: namespaces, links and firewall rules are made" >&2; exit 1; }
