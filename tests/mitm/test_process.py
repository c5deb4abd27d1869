"""mitmproxy as a process of ours: what it takes of the system, and what it leaves to the collector of garbage."""

import json
import os
import resource
import subprocess
import sys

import pytest

LOOK = """
import gc, json, resource, sys
from sidestream.mitm import process
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
process._raise_file_limit()
process._Settled().running()
print(json.dumps([resource.getrlimit(resource.RLIMIT_NOFILE), gc.get_freeze_count(), len(gc.get_objects())]))
"""


@pytest.fixture(scope="module")
def looked():
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, env=os.environ, check=True)
    return json.loads(done.stdout)


def test_it_may_open_as_many_files_as_the_system_allows(looked):
    [soft, hard], _, _ = looked

    assert soft == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_what_is_there_at_the_start_is_no_more_looked_through(looked):
    _, frozen, left = looked

    assert frozen > 100 * left
