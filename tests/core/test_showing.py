"""A policy as it is shown to people."""

import json

import pytest

from sidestream.core.showing import shown
from sidestream.core.snapshot import Snapshot
from tests.core.builders import CREDENTIALS, DASHSCOPE, MARKER, make_condition, make_route, make_rule


def show(condition):
    route = make_route(make_rule(matches=((condition,),)))
    return shown(Snapshot("revision", {DASHSCOPE: route}))


@pytest.mark.parametrize("name", CREDENTIALS)
def test_the_key_of_a_client_that_a_rule_asks_for_is_not_shown(name):
    told = show(make_condition(name=name, expected=CREDENTIALS[name]))

    [[[match]]] = [rule["matches"] for rule in told["hosts"][DASHSCOPE]["rules"]]
    assert match == f"header {name} exact [redacted]"
    assert MARKER not in json.dumps(told)


def test_other_conditions_are_shown_as_they_are():
    told = show(make_condition())

    assert told["hosts"][DASHSCOPE]["rules"][0]["matches"] == [["header user-type exact subscriber"]]
