"""How a request is read: one way for each that is good, and a refusal for what might be read in two."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.known_keys import DOMAIN, request

from vaultbrix.gateway.refusals import Refusal
from vaultbrix.gateway.request import PREFIX, Target, read_bearer, read_key, read_slug, read_target


def upstream(target: str) -> str:
    read = read_target(request(target))
    assert isinstance(read, Target), read
    return read.upstream


def status(target: str, method: str = "GET") -> int:
    read = read_target(request(target, method=method))
    assert isinstance(read, Refusal), read
    return read.status


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/rest/v1", "/"),
        ("/rest/v1/", "/"),
        ("/rest/v1/users", "/users"),
        ("/rest/v1/users?", "/users"),
        ("/rest/v1/users?select=*&status=eq.active", "/users?select=*&status=eq.active"),
        ("/rest/v1/rpc/add?a=1", "/rpc/add?a=1"),
        ("/rest/v1/my%20table", "/my%20table"),
        ("/rest/v1/caf%C3%A9", "/caf%C3%A9"),
        ("/rest/v1/caf\xc3\xa9", "/caf%C3%A9"),
        ("/rest/v1/u?name=eq.M\xc3\xbcller", "/u?name=eq.M%C3%BCller"),
        ("/rest/v1/u?a=cs.{1,2}&b=not.is.null&or=(a.eq.1,b.eq.2)", "/u?a=cs.{1,2}&b=not.is.null&or=(a.eq.1,b.eq.2)"),
        ("/rest/v1/u?a=eq.%2525%00%2F..", "/u?a=eq.%2525%00%2F.."),
        ("/rest/v1/u?a=eq./../x?y", "/u?a=eq./../x?y"),
        (r'/rest/v1/u?a=in.("x\"y","\\")', r'/u?a=in.("x\"y","\\")'),
        ("/rest/v1/a..b", "/a..b"),
    ],
)
def test_path_and_query_go_on_in_one_form(target: str, expected: str) -> None:
    assert upstream(target) == expected


@pytest.mark.parametrize(
    ("query", "rest", "key"),
    [
        ("apikey=k", "", "k"),
        ("apikey=k&a=eq.1", "?a=eq.1", "k"),
        ("a=eq.1&apikey=k&b=eq.2", "?a=eq.1&b=eq.2", "k"),
        ("a=eq.1&%61pikey=%6B", "?a=eq.1", "k"),
        ("apikey", "", ""),
        ("a=eq.1;apikey=k;b=eq.2&c=eq.3", "?a=eq.1;b=eq.2&c=eq.3", "k"),
        ("a=eq.%31;%61pikey=k", "?a=eq.%31", "k"),
        ("apikeys=k&APIKEY=k&a=apikey=k", "?apikeys=k&APIKEY=k&a=apikey=k", None),
        ("&&a=eq.1&", "?&&a=eq.1&", None),
    ],
)
def test_the_key_does_not_go_on_in_the_query(query: str, rest: str, key: str | None) -> None:
    assert read_target(request(f"/rest/v1/u?{query}")) == Target("/u" + rest, key)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/", 404), ("", 400), ("*", 400), ("/rest/v2/u", 404), ("/REST/v1/u", 404), ("/rest/v1x/u", 404),
        ("/rest/v1//u", 404), ("/rest/v1/u/", 404), ("/rest/v1/u/1", 404), ("/rest/v1/rpc/", 404),
        ("/rest/v1/rpc/a/b", 404), ("/rest//v1/u", 404), ("//rest/v1/u", 404), ("/rest/v1;x/u", 404),
        ("/rest/v1/../v1/u", 400), ("/rest/v1/./u", 400), ("/x/../rest/v1/u", 404), ("/rest/v1/..", 400),
        ("/rest/v1/%2e%2e", 400), ("/rest/v1/%2E", 400), ("/rest/v1/.%2e/admin", 400), ("/rest/v1/%2fetc", 400),
        ("/rest/v1/a%2Fb", 400), ("/rest/v1/a%5cb", 400), ("/rest/v1/a\\b", 400), ("/rest/v1/%252e%252e", 400),
        ("/rest/v1/%25", 400), ("/rest/v1/%", 400), ("/rest/v1/%zz", 400), ("/rest/v1/u%00", 400),
        ("/rest/v1/u%0d%0aX-Evil:1", 400), ("/rest/v1/u%C2%85", 400), ("/rest/v1/%ff", 400), ("/rest/v1/%c0%ae", 400),
        ("/rest/v1/u HTTP/1.1", 400), ("/rest/v1/u\r\nX: y", 400), ("/rest/v1/u\x00", 400), ("/rest/v1/u#f", 400),
        ("/rest/v1/u?a=b c", 400), ("/rest/v1/u?a=b\r\nX: y", 400), ("http://api.example.com/rest/v1/u", 400),
        ("https://evil.example/rest/v1/u", 400), ("/rest%2Fv1/u", 404), ("/%72est/v1/u", 404),
        ("/rest/v1/u?apikey=a&apikey=a", 400), ("/rest/v1/u?apikey=a&%61pikey=b", 400),
        ("/rest/v1/u?" + "a" * 16_384, 414),
    ],
)  # fmt: skip
def test_whatever_may_be_read_in_two_ways_is_refused(target: str, expected: int) -> None:
    assert status(target) == expected


@pytest.mark.parametrize(
    "query",
    [
        "select=id::regclass", "select=a,id::regrole", "select=n:id::regnamespace", "select=id::RegType",
        "select=id::%20regproc", "select=id::+regproc", "select=id::%72egclass", "%73elect=id%3A%3Aregclass",
        "a=eq.1&select=id::regclass", "a=eq.1;select=id::regclass", "select=id&select=id::regclass",
        "select=notes(id::regclass)", "select=d->>x::regconfig", "select=id::regclass[]", "select=id::text::regrole",
        "select=t::aclitem", "select=id::regclass.max()", "select=...notes(n:id::regoperator)",
    ],
)  # fmt: skip
def test_no_column_is_shown_as_a_name_of_the_catalogue(query: str) -> None:
    assert status(f"/rest/v1/u?{query}") == 400


@pytest.mark.parametrize(
    "query", ["select=id::region", "select=id::text", "a=eq.x::regclass", "select=regclass", "select=a::int,regrole"]
)
def test_other_casts_and_values_go_on(query: str) -> None:
    assert upstream(f"/rest/v1/u?{query}") == f"/u?{query}"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "get", "", "PROPFIND", "GET /x"])
def test_only_methods_of_postgrest_go_on(method: str) -> None:
    assert status("/rest/v1/u", method) == 405


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\%"), min_size=1, max_size=30)


@given(NAMES.filter(lambda name: name not in (".", "..")))
def test_each_name_of_a_table_arrives_as_it_is(name: str) -> None:
    arrived = upstream(f"{PREFIX}/{quote(name, safe='')}")
    assert arrived.isascii()
    assert unquote(arrived) == f"/{name}"


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_no_path_leaves_its_place(text: str) -> None:
    read = read_target(request(f"{PREFIX}/{text}"))
    if isinstance(read, Refusal):
        return
    path = read.upstream.split("?")[0]
    assert all("!" <= c <= "~" for c in read.upstream)
    assert path.startswith("/")
    assert path.count("/") <= 1 + path.startswith("/rpc/")
    assert not {"..", "."} & set(unquote(unquote(path)).split("/"))


@pytest.mark.parametrize(
    ("host", "slug"),
    [
        (DOMAIN, None),
        ("API.Example.Com", None),
        (f"{DOMAIN}:8443", None),
        (f"{DOMAIN}.", None),
        (f"acme.{DOMAIN}", "acme"),
        (f"ACME.{DOMAIN}:443", "acme"),
        (f"acme-corp.{DOMAIN}", "acme_corp"),
        (f"acme_corp.{DOMAIN}", "acme_corp"),
    ],
)
def test_both_forms_of_host(host: str, slug: str | None) -> None:
    assert read_slug(host, DOMAIN) == slug


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", f"a.b.{DOMAIN}", f".{DOMAIN}", f"acme{DOMAIN}", f"acme.{DOMAIN}.evil.example",
        f"{DOMAIN}@evil.example", f"acme.{DOMAIN}/x", f"a,b.{DOMAIN}", f"-.{DOMAIN}", f"acme.{DOMAIN}:99999999",
        f"acme.{DOMAIN}\n", f"a%62.{DOMAIN}", f"ä.{DOMAIN}", "[::1]",
    ],
)  # fmt: skip
def test_other_hosts_are_not_served(host: str) -> None:
    read = read_slug(host, DOMAIN)
    assert isinstance(read, Refusal)
    assert read.status == 404


def test_a_key_may_be_in_header_or_query_or_the_same_in_both() -> None:
    def key(target: str, *headers: tuple[str, str]) -> object:
        asked = request(target, *headers)
        read = read_target(asked)
        assert isinstance(read, Target)
        return read_key(asked, read)

    assert key("/rest/v1/u", ("apikey", "k")) == "k"
    assert key("/rest/v1/u", ("ApiKey", "k")) == "k"
    assert key("/rest/v1/u?apikey=k") == "k"
    assert key("/rest/v1/u?apikey=k", ("apikey", "k")) == "k"
    assert key("/rest/v1/u") is None
    assert key("/rest/v1/u", ("apikey", "")) is None
    for refused in (
        key("/rest/v1/u", ("apikey", "k"), ("apikey", "k")),
        key("/rest/v1/u", ("apikey", "k"), ("APIKEY", "other")),
        key("/rest/v1/u?apikey=other", ("apikey", "k")),
    ):
        assert isinstance(refused, Refusal)
        assert refused.status == 400


@pytest.mark.parametrize(
    ("value", "token"),
    [("Bearer t", "t"), ("bearer  t ", "t"), ("Bearer k", None), ("Bearer ", None), ("", None), ("BEARER t", "t")],
)
def test_a_bearer_that_is_the_key_is_no_user(value: str, token: str | None) -> None:
    assert read_bearer(request("/rest/v1/u", ("Authorization", value)), "k") == token


def test_any_other_authorization_is_refused() -> None:
    for headers in ([("Authorization", "Basic dTpw")], [("Authorization", "Bearer k"), ("authorization", "Bearer t")]):
        read = read_bearer(request("/rest/v1/u", *headers), "k")
        assert isinstance(read, Refusal)
        assert read.status == 400
    assert read_bearer(request("/rest/v1/u"), "k") is None
