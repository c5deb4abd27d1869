import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidestream.core.hosts import MAX_HOST_LENGTH, authority, is_address, normalise_host

LONGEST = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
CURIOUS = "aZ09-_.:[]%@/ \t\r\n\x00*。\uff0e｡ßİK㏂\uff1a①\u200d\u0301é名\ud800"
authorities = (
    st.text(st.sampled_from(CURIOUS), max_size=20) | st.text() | st.text(st.characters(categories=["Cs", "L"]))
)
names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z0-9_]{1,8}){0,3}", fullmatch=True)


@pytest.mark.parametrize(
    "written",
    [
        "dashscope.aliyuncs.com",
        "DashScope.AliYunCS.com",
        "dashscope.aliyuncs.com.",
        "dashscope.aliyuncs.com:80",
        "dashscope.aliyuncs.com:443",
        "dashscope.aliyuncs.com:",
        "DASHSCOPE.ALIYUNCS.COM.:443",
        " dashscope.aliyuncs.com ",
        "dashscope.aliyuncs.com:443\r",
        "\uff44\uff41\uff53\uff48\uff53\uff43\uff4f\uff50\uff45.aliyuncs.com",
        "dashscope。aliyuncs。com",
        "dashscope.aliyuncs.com。",
    ],
)
def test_one_host_has_one_spelling(written):
    assert normalise_host(written) == "dashscope.aliyuncs.com"


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example:8443", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("模型.示例.", "xn--xgs754b.xn--fsq092h"),
        ("a㏂", "aa.m"),
    ],
)
def test_an_international_name_is_in_a_labels(written, host):
    assert normalise_host(written) == host


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("demo-llm-server", "demo-llm-server"),
        ("my_service.default", "my_service.default"),
        ("10.0.0.1:8080", "10.0.0.1"),
        ("localhost:65535", "localhost"),
        (LONGEST, LONGEST),
        (LONGEST + ".", LONGEST),
    ],
)
def test_a_name_need_not_be_public(written, host):
    assert normalise_host(written) == host


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]:", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("[::1]:8080", "::1"),
        ("::1", "::1"),
        ("::", "::"),
    ],
)
def test_an_ipv6_address_is_compressed_and_without_brackets(written, host):
    assert normalise_host(written) == host


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        ".",
        "..",
        ":",
        ":443",
        ".:443",
        "a..b",
        ".a",
        "a..",
        "a.b..",
        "user@dashscope.aliyuncs.com",
        "user:password@dashscope.aliyuncs.com",
        "user:80@dashscope.aliyuncs.com:443",
        "https://dashscope.aliyuncs.com",
        "dashscope.aliyuncs.com/v1",
        "dashscope.aliyuncs.com?x",
        "dashscope.aliyuncs.com#x",
        "dashscope.aliyuncs.com:https",
        "dashscope.aliyuncs.com:-1",
        "dashscope.aliyuncs.com:+1",
        "dashscope.aliyuncs.com:4 43",
        "dashscope.aliyuncs.com:\uff14\uff14\uff13",
        "dashscope.aliyuncs.com:80:80",
        "dashscope.aliyuncs.com, api.moonshot.cn",
        "dashscope. aliyuncs.com",
        "dashscope.aliyuncs.com\x00",
        "dashscope.aliyuncs.com\r\nx: y",
        "*.aliyuncs.com",
        "a%2eb",
        "a\\b",
        "℀.example",
        "a\uff1a80",
        "\ud800.example",
        "a" * 64 + "é",
        LONGEST + "e",
        "a." * 200,
        "é" * 70_000,
        "[",
        "]",
        "[]",
        "[]:443",
        "[::1",
        "[::1]443",
        "[::1]:x",
        "[::1]::443",
        "[dashscope.aliyuncs.com]",
        "[127.0.0.1]",
        "::1::",
        "[fe80::1%eth0]",
        "fe80::1%eth0",
        "[::1% ]",
        "::1%any text\n",
        "[::1/64]",
    ],
)
def test_what_names_no_host_is_empty(written):
    assert normalise_host(written) == ""


@settings(max_examples=300)
@given(authorities)
@example("a..")
@example("a。")
@example("㏂")
@example("[::1% ]")
@example("\u3000a\u3000:80")
def test_normalising_twice_is_normalising_once(written):
    once = normalise_host(written)

    assert normalise_host(once) == once


@given(authorities)
def test_any_text_gives_a_short_plain_host_or_none(written):
    host = normalise_host(written)

    assert len(host) <= MAX_HOST_LENGTH
    assert set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._:")


@given(names, st.integers(1, 65535), st.sampled_from(["", "."]), st.booleans())
def test_port_dot_and_case_do_not_matter(name, port, dot, upper):
    written = f"{name.upper() if upper else name}{dot}:{port}"

    assert normalise_host(written) == name


@given(names | st.ip_addresses().map(str).map(normalise_host), st.integers(1, 65535))
def test_an_authority_names_its_host(host, port):
    assert normalise_host(authority(host, port, default_port=443)) == host


@pytest.mark.parametrize(
    ("host", "port", "written"),
    [
        ("api.moonshot.cn", 443, "api.moonshot.cn"),
        ("api.moonshot.cn", 8443, "api.moonshot.cn:8443"),
        ("127.0.0.1", 80, "127.0.0.1:80"),
        ("::1", 443, "[::1]"),
        ("::1", 8443, "[::1]:8443"),
    ],
)
def test_an_authority_has_no_default_port_and_ipv6_in_brackets(host, port, written):
    assert authority(host, port, default_port=443) == written


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "2001:db8::1", "0.0.0.0"])
def test_an_address_is_one(host):
    assert is_address(host)


@pytest.mark.parametrize("host", ["", "localhost", "127.1", "1.2.3.4.5", "256.0.0.1", "api.moonshot.cn", "[::1]"])
def test_a_name_is_no_address(host):
    assert not is_address(host)


@given(st.text())
def test_asking_for_an_address_never_fails(host):
    assert is_address(host) in (True, False)
