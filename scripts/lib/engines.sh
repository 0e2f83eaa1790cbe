# What tests/engines need: the engines of this release, and those of the other release in a cached root.
# To be sourced after setup.sh. Podman 4 with CNI is Debian 12's, Podman 5 with netavark is Debian 13's.

RELEASE=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")

# Engines come without a start of their services: see packages().
engine_packages() {
    packages podman containerd runc crun docker.io lxc systemd-container aardvark-dns debootstrap etcd-server etcd-client
    # Debian 13 has Docker's client in a package of its own.
    [ "$RELEASE" = bookworm ] || packages docker-cli
}

# The other release's engines, and what some containers run on; about two minutes, once. Tests that need a root that
# could not be made are skipped by name.
engine_roots() {
    local other=debian13
    [ "$RELEASE" = bookworm ] || other=debian12
    say "engines of the other release in ${NETDRIVERS_CACHE:-/var/cache/netdrivers-tests}"
    (cd tests && python -m engines.rootfs "$other" lecture) || say "the root $other or lecture could not be made"
}
