"""Whose API is at an address."""

import pytest

from sidestream.core.systems import OTHER_SYSTEM, system_of


@pytest.mark.parametrize(
    ("host", "system"),
    [
        ("api.openai.com", "openai"),
        ("mine.openai.azure.com", "azure.ai.openai"),
        ("DASHSCOPE.aliyuncs.com.", "dashscope"),
        ("api.moonshot.cn", "moonshot_ai"),
        ("openai.com.example", OTHER_SYSTEM),
        ("notopenai.com", OTHER_SYSTEM),
        ("10.0.0.1", OTHER_SYSTEM),
        ("", OTHER_SYSTEM),
    ],
)
def test_the_longest_known_domain_says_whose_it_is(host, system):
    assert system_of(host) == system
