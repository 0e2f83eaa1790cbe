"""Where a host stands in a network that spans hosts: one small interface, kept by a list in the file or by etcd."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from netdrivers import errors
from netdrivers.drivers.options import decode_options
from netdrivers.drivers.overlay import OverlayOptions
from netdrivers.drivers.spanning import Peer, Place
from netdrivers.model import Network

if TYPE_CHECKING:
    from netdrivers.cluster.etcd import Etcd
    from netdrivers.cluster.join import Identity, State

DEFAULT_KEY_DIR = "/etc/netdrivers/keys"


class Peers(Protocol):
    """Asked when a network is made or changed on this host; never by an add to a network that is there."""

    def claim(self, known: Place | None) -> Place:
        """This host's place, its slice for good. known: the place that it has here already."""

    def foresee(self, known: Place | None) -> Place:
        """The place that claim would give; nothing is claimed."""

    def announce(self, place: Place) -> None:
        """The network is in this host's kernel: the others may send."""

    def leave(self, release: bool) -> None:
        """The network is no longer on this host; release: nor will it come back, so the slice is free."""


def peers_of(network: Network, directory: str) -> Peers:
    """Who keeps a settled network's places. directory: the state's, for secrets."""
    return Listed(network) if network.options.get("etcd") is None else Clustered(network, directory)


class Listed:
    """The list in the network's file: no server, nothing to claim, nobody to tell."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._options = decode_options(network.options, OverlayOptions)

    def claim(self, known: Place | None) -> Place:
        """ConfigError unless this host is in the list; HostLacks without the secret of an encrypted network."""
        options = self._options
        own = [peer.slice for peer in options.peers if peer.host == options.local]
        if not own:
            listed = ", ".join(peer.host for peer in options.peers)
            raise errors.ConfigError("peers", listed, f"one of them this host, by its underlay address {options.local}")
        hosts = tuple(Peer(peer.host, peer.slice, int(options.encrypted)) for peer in options.peers)
        return Place(own[0], hosts, self._secrets())

    def _secrets(self) -> tuple[tuple[int, str], ...]:
        if not self._options.encrypted:
            return ()
        path = os.path.join(os.environ.get("NETDRIVERS_KEY_DIR") or DEFAULT_KEY_DIR, self._network.name)
        if not os.path.exists(path):
            hint = f"the same on every host: openssl rand -hex 32 > {path}"
            raise errors.HostLacks(f"network {self._network.name} is encrypted, and there is no {path}", hint)
        return ((1, path),)

    def foresee(self, known: Place | None) -> Place:
        """The same."""
        return self.claim(known)

    def announce(self, place: Place) -> None:
        """Nothing."""

    def leave(self, release: bool) -> None:
        """Nothing."""


class Clustered:
    """etcd keeps the places. All calls raise what cluster.etcd.Etcd does."""

    def __init__(self, network: Network, directory: str) -> None:
        self._network = network
        self._directory = directory

    def claim(self, known: Place | None) -> Place:
        """A known place is as good when etcd is not to be had."""
        from netdrivers.cluster import join, layout, rotation
        from netdrivers.cluster.etcd import Unreachable

        who = identity(self._network)
        with self._etcd(known) as etcd:
            try:
                state = None
                if known is None:
                    state = join.look(etcd, who)  # what is wrong is found before each endpoint is tried
                    etcd.survey(layout.SCHEMA_KEY)
                state = join.claim(etcd, who, known.slice if known else "", known=state)
                return self._place(rotation.renew(etcd, who, state))
            except Unreachable:
                if known is None:
                    raise
                return known

    def foresee(self, known: Place | None) -> Place:
        """Without a look at etcd where the place is known."""
        from netdrivers.cluster import join

        if known is not None:
            return known
        who = identity(self._network)
        with self._etcd(None) as etcd:
            state = join.look(etcd, who)
            state.slice = state.slice or join.choose(who, state)
            return self._place(state)

    def announce(self, place: Place) -> None:
        """The sign of life, with a lease that the service then keeps alive."""
        from netdrivers.cluster import join

        who = identity(self._network)
        with self._etcd(place) as etcd:
            generation = max((number for number, _ in place.secrets), default=0)
            join.announce(etcd, who, join.look(etcd, who, place.slice, others=False), generation)

    def leave(self, release: bool) -> None:
        """The sign of life goes at once, and not with its lease's end."""
        from netdrivers.cluster import join

        with self._etcd(None) as etcd:
            join.leave(etcd, identity(self._network), release)

    def _etcd(self, known: Place | None) -> Etcd:
        from netdrivers.cluster.etcd import Etcd
        from netdrivers.cluster.options import options_of

        return Etcd(options_of(self._network), known.cluster if known else 0)

    def _place(self, state: State) -> Place:
        from netdrivers.cluster import keyring
        from netdrivers.cluster.view import peers_of

        secrets = keyring.keep(self._directory, self._network.name, state.secrets) if state.secrets else ()
        return Place(state.slice, peers_of(state.hosts, identity(self._network), state.slice), secrets, state.cluster)


def identity(network: Network) -> Identity:
    """Who this host is in a settled network that etcd keeps."""
    from netdrivers.cluster import layout
    from netdrivers.cluster.join import Identity

    options = decode_options(network.options, OverlayOptions)
    return Identity(network, options.local, layout.settings_of(options))
