"""Which network addresses an input may come from, whatever they are written like."""

import ipaddress

import pytest

from render_farm.media.fetching.addresses import ForbiddenAddress, checked_endpoints, why_forbidden

INNER = """
127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 168.63.129.16 192.0.0.192 0.0.0.0
0.1.2.3 192.88.99.1 224.0.0.1 255.255.255.255 198.18.0.1 198.51.100.1 240.0.0.1 ::1 :: fe80::1 fd00:ec2::254 fec0::1
ff02::1 100::1 100:0:0:1::1 ::ffff:10.0.0.1 ::ffff:0:10.0.0.1 ::ffff:0:1.1.1.1 64:ff9b::a00:1 64:ff9b:1::1.1.1.1
2002:a00:1:: 2002:101:101:: ::127.0.0.1 ::1.1.1.1 2001:0:1::1 2001:db8::1 3fff::1 3fff:fff:ffff::1 5f00::1
"""
NEVER = """
169.254.169.254 fe80::1 ::ffff:169.254.169.254 ::ffff:0:169.254.169.254 ::169.254.169.254 64:ff9b::169.254.169.254
64:ff9b:1::169.254.169.254 2002:a9fe:a9fe::1 2001:0:1::5601:5601 0.0.0.0 :: 224.0.0.1 ff02::1
"""
PUBLIC = "93.184.216.34 1.1.1.1 192.31.196.1 2606:4700::1111 2a00::1 64:ff9b::101:101 ::ffff:1.1.1.1"
LOCAL_NAMES = ["localhost", "127.1", "2130706433", "0177.0.0.1", "0x7f.1", "0x7f000001", "::1"]


@pytest.mark.parametrize("address", INNER.split())
def test_inner_addresses_are_forbidden(address):
    assert why_forbidden(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", NEVER.split())
def test_link_local_addresses_are_forbidden_to_trusted_hosts_too_however_they_are_wrapped(address):
    assert why_forbidden(ipaddress.ip_address(address), trusted=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "fd00::1", "::ffff:10.0.0.1"])
def test_trusted_hosts_may_be_private(address):
    assert why_forbidden(ipaddress.ip_address(address), trusted=True) == ""


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_addresses_are_not(address):
    assert why_forbidden(ipaddress.ip_address(address)) == ""


@pytest.mark.parametrize("name", LOCAL_NAMES)
def test_other_spellings_of_this_machine_are_refused(name):
    with pytest.raises(ForbiddenAddress, match="is a loopback address"):
        checked_endpoints(name, 443, trusted=False)
