"""What may be read: schemes, roots with links resolved, redirects."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.media.address import local_copy
from vemoclap_batch.media.clip import MediaError
from vemoclap_batch.policy import Policy
from vemoclap_batch.sources.manifest import read_sources
from vemoclap_batch.store.store import Store

names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


@pytest.mark.parametrize("address", ["ftp://h/a.mp4", "data://x", "memory://a.mp4", "github://o:r@/a", "zip://a::b"])
def test_only_schemes_that_are_allowed(address):
    assert "is not one of" in Policy().refusal(address)
    assert Policy(schemes=(address.partition("://")[0],)).refusal(address) is None


def test_an_address_with_a_password_is_refused_and_shown_without_it():
    for address in (
        "s3://key:hushhush@bucket/a.mp4", "s3://key:hush/hushhush@bucket/a.mp4",
        "HTTPS://me:hushhush@example.org/a.mp4", "https://hushhush@example.org/a.mp4",
    ):  # fmt: skip
        assert "password" in Policy(schemes=()).refusal(address)
        with pytest.raises(ConfigError, match="password") as error:
            read_sources([address])
        assert "hushhush" not in str(error.value)
    for address in ("abfs://container@account/a.mp4", "https://example.org:80/a@b.mp4", "s3://bucket/a:b@c.mp4"):
        assert Policy(schemes=()).refusal(address) is None


def test_a_manifest_or_an_output_with_a_password_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("uri,content_key\ns3://key:hushhush@bucket/a.mp4,1\n")
    for refused in (lambda: read_sources([str(tmp_path / "m.csv")]), lambda: Store("s3://key:hushhush@bucket/out")):
        with pytest.raises(ConfigError, match="password") as error:
            refused()
        assert "hushhush" not in str(error.value)


def test_what_a_server_decodes_does_not_lead_out_of_a_root():
    policy = Policy(roots=("https://host/pub",))
    assert policy.refusal("https://host/pub/a%20b.mp4?x=../..") is None
    for bad in ("%2e%2e/private", "..%2fprivate", "..%5cprivate", "a/../../private"):
        assert policy.refusal(f"https://host/pub/{bad}")


def test_a_refused_redirect_is_told_without_its_signature():
    said = Policy(schemes=("https",)).refusal_of_redirect("https://host/a", "http://other/b?X-Amz-Signature=hushhush")
    assert "http://other/b" in said
    assert "hushhush" not in said


def test_a_link_that_leads_out_of_the_roots_costs_itself_alone(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.mp4").write_bytes(b"x")
    (inside / "link.mp4").symlink_to(outside / "a.mp4")
    policy = Policy(roots=(str(inside),))
    found = read_sources([str(inside)], policy)
    assert found.rows["uri"].to_pylist() == [str(inside / "a.mp4")]
    assert found.ignored["(may not be read)"] == 1
    # Whoever names it himself is told.
    with pytest.raises(ConfigError, match="outside"):
        read_sources([str(inside / "link.mp4")], policy)


def test_a_home_folder_is_the_same_for_the_policy_and_for_reading(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret.mp4").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.csv").write_text("uri,content_key\nFILE://~/secret.mp4,1\n")
    assert read_sources([str(tmp_path / "m.csv")]).rows["uri"].to_pylist() == [str(tmp_path / "home" / "secret.mp4")]
    policy = Policy(roots=(str(tmp_path / "work"),))
    with pytest.raises(ConfigError, match="outside"):
        read_sources([str(tmp_path / "m.csv")], policy)
    with pytest.raises(MediaError), local_copy("~/secret.mp4"):
        pass


def test_anywhere_without_roots():
    for address in ("/any/where.mp4", "s3://bucket/a.mp4", "https://example.org/a.mp4"):
        assert Policy().refusal(address) is None


def test_below_a_root_with_links_resolved(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside, tmp_path / "in-too"):
        folder.mkdir()
        (folder / "a.mp4").write_bytes(b"x")
    (inside / "link.mp4").symlink_to(outside / "a.mp4")
    (inside / "folder").symlink_to(outside)
    policy = Policy(roots=(str(inside), "s3://bucket/in"))
    assert policy.refusal(str(inside / "a.mp4")) is None
    for bad in ("link.mp4", "folder/a.mp4", "../out/a.mp4", "../in-too/a.mp4"):
        assert "outside" in policy.refusal(os.path.join(inside, bad))
    assert policy.refusal("s3://bucket/in/a.mp4") is None
    for bad in ("s3://bucket/in-too/a.mp4", "s3://bucket/a.mp4", "s3://other/in/a.mp4", "s3://bucket/in/../a.mp4"):
        assert policy.refusal(bad)


def test_redirects():
    policy, origin = Policy(), "https://videos.example.org/a.mp4"
    assert policy.refusal_of_redirect(origin, "https://videos.example.org/b.mp4?token=1") is None
    assert policy.refusal_of_redirect(origin, "https://93.184.215.14/b.mp4") is None
    for bad in (
        "http://169.254.169.254/latest/meta-data", "http://127.0.0.1:8265/api", "http://[::1]/x", "http://10.0.0.5/x",
        "file:///etc/passwd", "ftp://videos.example.org/a",
    ):  # fmt: skip
        assert policy.refusal_of_redirect(origin, bad)
    # IPv4 in IPv6: translated by the network, tunnelled or mapped.
    for inner in ("64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1", "::ffff:169.254.169.254"):
        assert policy.refusal_of_redirect(origin, f"http://[{inner}]/x")
    assert policy.refusal_of_redirect(origin, "http://[64:ff9b::5db8:d70e]/x") is None
    # A server of one's own network may redirect within itself.
    assert policy.refusal_of_redirect("http://127.0.0.1:80/a", "http://127.0.0.1:80/b") is None
    rooted = Policy(roots=("https://videos.example.org/public",))
    assert rooted.refusal_of_redirect(origin, "https://videos.example.org/private/a.mp4")
    assert rooted.refusal_of_redirect(origin, "https://videos.example.org/public/a.mp4") is None


@given(st.lists(names, min_size=1, max_size=3), st.lists(names | st.just(".."), max_size=5))
def test_nothing_climbs_out_of_a_remote_root(root, rest):
    prefix = "s3://" + "/".join(root)
    address = "/".join([prefix, *rest])
    if Policy(roots=(prefix,)).refusal(address) is None:
        assert ".." not in rest
        assert address.startswith(prefix)
