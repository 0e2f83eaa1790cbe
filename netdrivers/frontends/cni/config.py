"""A CNI plugin configuration and its arguments as Network and Attachment (spec, sections 1 to 3)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from netdrivers.errors import ConfigError, RequestError
from netdrivers.frontends.cni.result import parse_result
from netdrivers.frontends.reading import (
    Document,
    check_ifname,
    check_name,
    get,
    need,
    objects,
    spelled,
    strings,
)
from netdrivers.model import (
    Attachment,
    Dns,
    Ipam,
    LeasedAddress,
    Network,
    Pool,
    PortMapping,
    Range,
    Result,
    Route,
)
from netdrivers.publish import check_mapping

SHARED_KEYS = frozenset(
    {
        "cniVersion", "cniVersions", "name", "type", "ipam", "dns", "prevResult", "runtimeConfig", "args",
        "capabilities", "disableCheck", "disableGC", "firewall", "cni.dev/valid-attachments", "cni.dev/attachments",
        "network",
    }
)  # fmt: skip
"""Keys of every plugin configuration; what else there is belongs to the driver."""

CALL_KEYS = frozenset(
    {
        "cniVersion", "cniVersions", "prevResult", "runtimeConfig", "args", "capabilities", "cni.dev/valid-attachments",
        "cni.dev/attachments",
    }
)  # fmt: skip
"""Keys that belong to a call, also where the configuration is that of a named network."""

CHAINED = ("portmap", "firewall", "tuning")
"""Plugins that add to what an earlier one made (their drivers say chained)."""

OWN_IPAM = ("host-local", "static")
CNI_ARGS_KEYS = ("IgnoreUnknown", "IP", "MAC", "GATEWAY")


class Arguments(Struct, frozen=True):
    """The parameters of a call, from the environment (spec, section 2)."""

    command: str
    container: str
    netns: str
    ifname: str
    args: dict[str, str]
    path: str


def arguments(env: dict[str, str], command: str) -> Arguments:
    """The call's parameters, those that the verb needs checked. RequestError names the variable."""
    needed = {
        "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
        "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
        "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    }.get(command, ())
    for name in needed:
        if not env.get(name):
            raise RequestError(name, env.get(name, ""), f"set for {command}")
    if needed:
        check_name(env["CNI_CONTAINERID"], "CNI_CONTAINERID", RequestError)
        check_ifname(env["CNI_IFNAME"], "CNI_IFNAME")
    return Arguments(
        command,
        env.get("CNI_CONTAINERID", ""),
        env.get("CNI_NETNS", ""),
        env.get("CNI_IFNAME", ""),
        _cni_args(env.get("CNI_ARGS", "")),
        env.get("CNI_PATH", ""),
    )


def _cni_args(text: str) -> dict[str, str]:
    found = {}
    for pair in filter(None, text.split(";")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise RequestError("CNI_ARGS", text, "pairs KEY=VALUE separated by ';'")
        found[key] = value
    return found


def record_name(name: str, plugin: str) -> str:
    """What the store knows a network by: a chained plugin's part is apart from its main plugin's."""
    return f"{name}+{plugin}" if plugin in CHAINED else name


def _runtime(config: Document) -> dict[str, Any]:
    """What the runtime sends for the capabilities of the conventions."""
    given = get(config, "runtimeConfig", dict, {})
    return spelled(given, "ips", "mac", "portMappings", "ipRanges", "aliases", "dns")


def network_of(config: Document, plugin: str) -> Network:
    """The network that a plugin configuration describes. plugin: the driver's name."""
    name = check_name(need(config, "name", str), "name")
    ipam_config = get(config, "ipam", dict, {})
    runtime = _runtime(config)
    return Network(
        name=record_name(name, plugin),
        driver=plugin,
        options={key: value for key, value in config.items() if key not in SHARED_KEYS},
        ipam=_ipam(ipam_config, runtime),
        dns=_dns(config, {}),
        firewall=get(config, "firewall", str, "auto"),
    )


def _dns(config: Document, runtime: Document) -> Dns:
    given = get(config, "dns", dict, {})
    dns = Dns(
        strings(given, "nameservers", "dns."),
        get(given, "domain", str, "", "dns."),
        strings(given, "search", "dns."),
        strings(given, "options", "dns."),
    )
    asked = spelled(get(runtime, "dns", dict, {}, "runtimeConfig."), "servers", "searches", "options")
    where = "runtimeConfig.dns."
    return Dns(
        strings(asked, "servers", where) or dns.nameservers,
        dns.domain,
        strings(asked, "searches", where) or dns.search,
        strings(asked, "options", where) or dns.options,
    )


def _ipam(config: Document, runtime: Document) -> Ipam:
    kind = get(config, "type", str, "", "ipam.")
    if not kind:
        if config:
            raise ConfigError("ipam.type", config.get("type"), "host-local, static, or an executable on CNI_PATH")
        return Ipam()
    if "/" in kind or kind in (".", ".."):
        raise ConfigError("ipam.type", kind, "the name of an executable, without a path")
    routes = tuple(_route(route, f"ipam.routes[{i}].") for i, route in enumerate(objects(config, "routes", "ipam.")))
    if kind == "host-local":
        return Ipam("host-local", _pools(config, runtime), routes=routes, dns=_resolv_conf(config))
    if kind == "static":
        addresses = tuple(
            LeasedAddress(need(item, "address", str, f"ipam.addresses[{i}]."), get(item, "gateway", str, "", "ipam."))
            for i, item in enumerate(objects(config, "addresses", "ipam."))
        )
        return Ipam("static", addresses=addresses, routes=routes, dns=_dns({"dns": config.get("dns")}, {}))
    return Ipam("delegated", plugin=kind)


def _route(route: Document, where: str) -> Route:
    return Route(
        need(route, "dst", str, where),
        get(route, "gw", str, "", where),
        get(route, "mtu", int, 0, where),
        get(route, "advmss", int, 0, where),
        get(route, "priority", int, 0, where),
        get(route, "table", int, 0, where),
        get(route, "scope", int, -1, where),
    )


def _range(item: Document, where: str) -> Range:
    return Range(
        need(item, "subnet", str, where),
        get(item, "rangeStart", str, "", where),
        get(item, "rangeEnd", str, "", where),
        get(item, "gateway", str, "", where),
    )


def _pools(config: Document, runtime: Document) -> tuple[Pool, ...]:
    sets: list[Any] = [*get(runtime, "ipRanges", list, [], "runtimeConfig."), *get(config, "ranges", list, [], "ipam.")]
    excludes = strings(config, "excludes", "ipam.")
    pools = []
    if config.get("subnet"):  # the form before ranges
        pools.append(Pool((_range(config, "ipam."),), excludes))
    for i, ranges in enumerate(sets):
        if not isinstance(ranges, list) or not all(isinstance(item, dict) for item in ranges):
            raise ConfigError(f"ipam.ranges[{i}]", ranges, "an array of ranges, each an object with a subnet")
        pools.append(Pool(tuple(_range(r, f"ipam.ranges[{i}][{j}].") for j, r in enumerate(ranges)), excludes))
    return tuple(pools)


def _resolv_conf(config: Document) -> Dns:
    path = get(config, "resolvConf", str, "", "ipam.")
    if not path:
        return Dns()
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    domain = ""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise ConfigError("ipam.resolvConf", path, f"a readable file ({error.strerror})") from None
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        values = rest.split()
        if word == "nameserver":
            servers += values[:1]
        elif word == "domain":
            domain = rest.strip()
        elif word == "search":
            search = values
        elif word == "options":
            options += values
    return Dns(tuple(servers), domain, tuple(search), tuple(options))


def attachment_of(config: Document, network: Network, call: Arguments, engine: str) -> Attachment:
    """The attachment that a call asks for, with address and MAC from every place the conventions allow.

    config: as the engine sent it, whatever network it is about.
    """
    runtime = _runtime(config)
    args = get(get(config, "args", dict, {}), "cni", dict, {}, "args.")
    aliases = get(runtime, "aliases", dict, {}, "runtimeConfig.")
    addresses = [
        *strings(runtime, "ips", "runtimeConfig."),
        *strings(args, "ips", "args.cni."),
        *filter(None, call.args.get("IP", "").split(",")),
    ]
    previous = get(config, "prevResult", dict, None)
    return Attachment(
        network=network.name,
        driver=network.driver,
        container=call.container,
        ifname=call.ifname,
        netns=call.netns,
        mac=_mac(get(runtime, "mac", str, "", "runtimeConfig."), get(args, "mac", str, "", "args.cni."), call),
        addresses=tuple(dict.fromkeys(addresses)),
        ports=port_mappings(runtime.get("portMappings"), "runtimeConfig.portMappings"),
        engine=engine,
        label=call.args.get("K8S_POD_NAME", "") or _name_in_id(call.container, engine),
        aliases=tuple(strings(aliases, config["name"], "runtimeConfig.aliases.")),
        previous=parse_result(previous) if previous is not None else None,
        origin=need(config, "name", str),
    )


def _name_in_id(container: str, engine: str) -> str:
    """ctr and nerdctl, which tell no name, put containerd's namespace before their id."""
    if engine != "containerd" or not container.startswith("default-"):
        return ""
    name = container.removeprefix("default-")
    return name[:12] if len(name) == 64 else name


def dns_of_call(config: Document) -> Dns:
    """What the runtime wants a container's resolver to be told (runtimeConfig.dns)."""
    return _dns({}, _runtime(config))


def _mac(runtime: str, args: str, call: Arguments) -> str:
    from netdrivers.drivers.common import checked_mac

    for value, field in (
        (runtime, "runtimeConfig.mac"),
        (args, "args.cni.mac"),
        (call.args.get("MAC", ""), "CNI_ARGS MAC"),
    ):
        if value:
            return checked_mac(value, field)
    return ""


def port_mappings(given: Any, where: str) -> tuple[PortMapping, ...]:
    """Port mappings, neighbours joined to ranges; a host port of 0 publishes nothing, as Kubernetes sends it."""
    if given is None:
        return ()
    if not isinstance(given, list):
        raise ConfigError(where, given, "an array")
    found: list[PortMapping] = []
    for i, item in enumerate(given):
        field = f"{where}[{i}]"
        if not isinstance(item, dict):
            raise ConfigError(field, item, "an object")
        keys = spelled(item, "hostPort", "containerPort", "protocol", "hostIP", "range")
        host_port = get(keys, "hostPort", int, 0, f"{field}.")
        if host_port == 0:
            continue
        mapping = PortMapping(
            get(keys, "protocol", str, "", f"{field}.").lower() or "tcp",
            host_port,
            need(keys, "containerPort", int, f"{field}."),
            _host_ip(get(keys, "hostIP", str, "", f"{field}."), field),
            get(keys, "range", int, 1, f"{field}."),
        )
        check_mapping(mapping, field)
        last = found[-1] if found else None
        if last and _follows(last, mapping):
            found[-1] = PortMapping(
                last.protocol, last.host_port, last.container_port, last.host_ip, last.count + mapping.count
            )
        else:
            found.append(mapping)
    return tuple(found)


def _follows(last: PortMapping, mapping: PortMapping) -> bool:
    return (
        last.protocol == mapping.protocol
        and last.host_ip == mapping.host_ip
        and last.host_port + last.count == mapping.host_port
        and last.container_port + last.count == mapping.container_port
    )


def _host_ip(text: str, field: str) -> str:
    if not text:
        return ""
    import _socket

    family = _socket.AF_INET6 if ":" in text else _socket.AF_INET
    try:
        return _socket.inet_ntop(family, _socket.inet_pton(family, text))
    except (OSError, ValueError):
        raise ConfigError(f"{field}.hostIP", text, "an IP address of the host") from None


def merged(previous: Result | None, own: Result) -> Result:
    """Our result after that of the plugins before us in the chain."""
    if previous is None:
        return own
    from msgspec.structs import replace

    shift = len(previous.interfaces)
    shifted = tuple(replace(a, interface=a.interface + shift if a.interface >= 0 else -1) for a in own.addresses)
    return Result(
        (*previous.interfaces, *own.interfaces),
        (*previous.addresses, *shifted),
        (*previous.routes, *own.routes),
        own.dns if own.dns != Dns() else previous.dns,
    )
