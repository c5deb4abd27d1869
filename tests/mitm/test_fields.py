"""Header fields, changed all at once: against mitmproxy's own, which change them one by one."""

from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.http import Headers

from sidestream.mitm.fields import changed

NAMES = st.sampled_from([b"host", b"Host", b"accept", b"Content-Length", b"content-length", b"TE", b"x"])
VALUES = st.sampled_from([b"", b"1", b"2"])


@given(st.lists(st.tuples(NAMES, VALUES)), st.dictionaries(NAMES.map(bytes.lower), VALUES | st.none()))
def test_all_at_once_is_as_one_by_one(fields, values):
    expected = Headers(fields)
    for name, value in values.items():
        if value is None:
            expected.pop(name.decode(), None)
        else:
            expected[name.decode()] = value.decode()

    once = changed(fields, values)

    assert once == expected.fields
    assert changed(once, values) == once
