# SPDX-License-Identifier: GPL-2.0-or-later
"""The key of the pair: made once, carried once, never overwritten by accident."""

import ssl
from pathlib import Path

import pytest

from agent.adapters.openssl import make_pair_key
from agent.channel.keys import make_context, parse_key
from agent.errors import HafwError
from agent.setup import pair_key


@pytest.fixture(scope="module")
def key() -> str:
    return make_pair_key()


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    place = tmp_path / "hafw" / "pair.pem"
    pair_key.make(place)
    made = place.read_text()
    assert parse_key(made).text == made
    assert place.stat().st_mode & 0o7777 == 0o600
    with pytest.raises(HafwError, match="is there already"):
        pair_key.make(place)
    assert place.read_text() == made


def test_the_other_node_takes_it(tmp_path: Path, key: str) -> None:
    place = tmp_path / "pair.pem"
    place.write_text("an old one")
    assert pair_key.join(place, key)
    assert place.read_text() == key
    assert place.stat().st_mode & 0o7777 == 0o600
    assert not pair_key.join(place, key)


def test_what_is_no_key_changes_nothing(tmp_path: Path, key: str) -> None:
    place = tmp_path / "pair.pem"
    pair_key.join(place, key)
    begin = key.index("-----BEGIN CERTIFICATE")
    for bad in (
        "",
        "hello",
        key[:begin],
        key[begin:],
        key.replace("\n", "\nx", 3),
        make_pair_key()[:begin] + key[begin:],
    ):
        with pytest.raises(HafwError, match="no usable private key"):
            pair_key.join(place, bad)
    assert place.read_text() == key


def test_each_key_is_another_one(key: str) -> None:
    with pytest.raises(HafwError, match="another one"):
        parse_key(key).require_peer(parse_key(make_pair_key()).certificate)
    parse_key(key).require_peer(ssl.PEM_cert_to_DER_cert(key[key.index("-----BEGIN CERTIFICATE") :]))
    with pytest.raises(HafwError, match="another one"):
        parse_key(key).require_peer(None)


def test_both_sides_ask_for_the_certificate_of_the_other_in_tls_1_3_alone(key: str) -> None:
    for server in (True, False):
        context = make_context(parse_key(key), server=server)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert len(context.get_ca_certs(binary_form=True)) == 1
