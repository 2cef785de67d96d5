# SPDX-License-Identifier: GPL-2.0-or-later
"""The words that a policy may use for services, protocols and ICMP types, in the field's own names."""

from dataclasses import dataclass

from agent.model.pair import PortRange, Protocol, Service


def _of(protocol: Protocol, name: str, *ports: int | tuple[int, int], helper: str | None = None) -> Service:
    ranges = (port if isinstance(port, tuple) else (port, port) for port in ports)
    return Service(name, protocol, tuple(PortRange(*one) for one in ranges), helper)


def _tcp(name: str, *ports: int | tuple[int, int], helper: str | None = None) -> Service:
    return _of(Protocol.TCP, name, *ports, helper=helper)


def _udp(name: str, *ports: int | tuple[int, int], helper: str | None = None) -> Service:
    return _of(Protocol.UDP, name, *ports, helper=helper)


def _both(name: str, *ports: int | tuple[int, int], helper: str | None = None) -> tuple[Service, ...]:
    return (_udp(name, *ports, helper=helper), _tcp(name, *ports, helper=helper))


def _whole(name: str, *numbers: int) -> Service:
    return Service(name, Protocol.NUMBER, numbers=numbers)


BFD_PORTS = (3784, 4784)
"""With one hop, with several."""
_EVERY: tuple[tuple[Service, ...], ...] = (
    (_tcp("ssh", 22),),
    (_tcp("http", 80),),
    (_tcp("https", 443),),
    (_udp("http3", 443),),
    (_tcp("http-alt", 8080),),
    # the data connections come in as `related`, found by the kernel's helper
    (_tcp("ftp", 21, helper="ftp"),),
    (_tcp("ftps", 990),),
    (_udp("tftp", 69, helper="tftp"),),
    _both("sip", 5060, helper="sip"),
    (_tcp("sips", 5061),),
    (_udp("h323", 1719, helper="RAS"), _tcp("h323", 1720, helper="Q.931")),
    (_udp("amanda", 10080, helper="amanda"),),
    (_tcp("pptp", 1723, helper="pptp"),),
    (_tcp("sane", 6566, helper="sane"),),
    _both("dns", 53),
    (_tcp("dns-over-tls", 853),),
    (_udp("dns-over-quic", 853),),
    (_udp("mdns", 5353),),
    (_udp("ntp", 123),),
    (_tcp("nts-ke", 4460),),
    (_udp("dhcp", 67),),
    (_udp("dhcpv6", 547),),
    (_tcp("smtp", 25),),
    (_tcp("submission", 587),),
    (_tcp("submissions", 465),),
    (_tcp("imap", 143),),
    (_tcp("imaps", 993),),
    (_tcp("pop3", 110),),
    (_tcp("pop3s", 995),),
    (_tcp("managesieve", 4190),),
    (_tcp("ldap", 389), _udp("ldap", 389)),
    (_tcp("ldaps", 636),),
    (_tcp("kerberos", 88), _udp("kerberos", 88)),
    _both("kpasswd", 464),
    _both("radius", 1812, 1813),
    (_tcp("tacacs", 49),),
    (_tcp("smb", 445),),
    (_udp("netbios", 137, 138), _tcp("netbios", 139)),
    (_tcp("nfs", 2049),),
    _both("rpcbind", 111),
    (_tcp("rsync", 873),),
    (_tcp("iscsi", 3260),),
    (_tcp("git", 9418),),
    (_tcp("ipp", 631),),
    (_tcp("jetdirect", 9100),),
    (_udp("syslog", 514),),
    (_tcp("syslog-tls", 6514),),
    (_udp("snmp", 161),),
    (_udp("snmp-trap", 162),),
    (_udp("netflow", 2055),),
    (_udp("sflow", 6343),),
    (_tcp("telnet", 23),),
    (_tcp("rdp", 3389), _udp("rdp", 3389)),
    (_tcp("vnc", 5900),),
    (_tcp("spice", 5900),),
    (_tcp("x11", (6000, 6063)),),
    (_tcp("whois", 43),),
    (_tcp("ident", 113),),
    (_tcp("irc", 6667),),
    (_tcp("ircs", 6697),),
    (_tcp("xmpp-client", 5222),),
    (_tcp("xmpp-server", 5269),),
    _both("stun", 3478),
    _both("stuns", 5349),
    (_tcp("postgresql", 5432),),
    (_tcp("mysql", 3306),),
    (_tcp("mssql", 1433),),
    (_tcp("oracle", 1521),),
    (_tcp("mongodb", 27017),),
    (_tcp("redis", 6379),),
    (_tcp("memcached", 11211),),
    (_tcp("elasticsearch", 9200),),
    (_tcp("kafka", 9092),),
    (_tcp("amqp", 5672),),
    (_tcp("amqps", 5671),),
    (_tcp("mqtt", 1883),),
    (_tcp("mqtts", 8883),),
    (_tcp("etcd", 2379, 2380),),
    (_tcp("kube-api", 6443),),
    (_tcp("docker-registry", 5000),),
    (_udp("wireguard", 51820),),
    _both("openvpn", 1194),
    (_udp("ike", 500, 4500),),
    (_udp("ipsec", 500, 4500), _whole("ipsec", 50, 51)),
    (_udp("l2tp", 1701),),
    (_udp("vxlan", 4789),),
    (_udp("geneve", 6081),),
    (_tcp("bgp", 179),),
    (_udp("rip", 520),),
    (_udp("ripng", 521),),
    (_udp("bfd", *BFD_PORTS),),
    (_udp("hsrp", 1985),),
    (_tcp("zabbix-agent", 10050),),
    (_tcp("zabbix-server", 10051),),
    (_tcp("nrpe", 5666),),
    (_tcp("prometheus", 9090),),
    (_tcp("node-exporter", 9100),),
    (_tcp("grafana", 3000),),
    (_tcp("cockpit", 9090),),
    (_tcp("proxmox", 8006),),
    (_tcp("libvirt-tls", 16514),),
    (_tcp("squid", 3128),),
    (_tcp("socks", 1080),),
    (_udp("traceroute", (33434, 33534)),),
    (_whole("gre", 47),),
    (_whole("esp", 50),),
    (_whole("ah", 51),),
    (_whole("ospf", 89),),
    (_whole("pim", 103),),
    (_whole("igmp", 2),),
    (Service("icmp", Protocol.ICMP),),
    (Service("ping", Protocol.ICMP),),
    (Service("any", Protocol.ANY),),
)

SERVICES: dict[str, tuple[Service, ...]] = {services[0].name: services for services in _EVERY}
"""A name stands for one service or for several, as dns for both of its protocols."""

PROTOCOLS: dict[str, int] = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "eigrp": 88,
    "ospf": 89,
    "etherip": 97,
    "pim": 103,
    "l2tp": 115,
    "sctp": 132,
    "udplite": 136,
}

# Requests only: an answer or an error belongs to a connection and comes in with it, or else is invalid.
ICMP_TYPES: dict[Protocol, dict[str, int]] = {
    Protocol.ICMPV4: {"echo-request": 8, "timestamp-request": 13, "address-mask-request": 17},
    Protocol.ICMPV6: {"echo-request": 128},
}


@dataclass(frozen=True, slots=True)
class Helper:
    """One of the kernel's: the protocols that it reads, and the modules that it is in."""

    protocols: tuple[Protocol, ...]
    modules: tuple[str, ...]


HELPERS: dict[str, Helper] = {
    "ftp": Helper((Protocol.TCP,), ("nf_conntrack_ftp", "nf_nat_ftp")),
    "tftp": Helper((Protocol.UDP,), ("nf_conntrack_tftp", "nf_nat_tftp")),
    "sip": Helper((Protocol.UDP, Protocol.TCP), ("nf_conntrack_sip", "nf_nat_sip")),
    "amanda": Helper((Protocol.UDP,), ("nf_conntrack_amanda", "nf_nat_amanda")),
    "irc": Helper((Protocol.TCP,), ("nf_conntrack_irc", "nf_nat_irc")),
    "netbios-ns": Helper((Protocol.UDP,), ("nf_conntrack_netbios_ns",)),
    "pptp": Helper((Protocol.TCP,), ("nf_conntrack_pptp", "nf_nat_pptp")),
    "Q.931": Helper((Protocol.TCP,), ("nf_conntrack_h323", "nf_nat_h323")),
    "RAS": Helper((Protocol.UDP,), ("nf_conntrack_h323", "nf_nat_h323")),
    "sane": Helper((Protocol.TCP,), ("nf_conntrack_sane",)),
    "snmp": Helper((Protocol.UDP,), ("nf_conntrack_snmp", "nf_nat_snmp_basic")),
}
"""The kernel's helpers, by its own names for them."""
