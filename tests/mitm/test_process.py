"""mitmproxy as a process of ours: what it takes of the system, and what it leaves to the collector of garbage."""

import json
import os
import platform
import resource
import subprocess
import sys

import pytest

LOOK = """
import asyncio, gc, json, resource, sys
from sidestream.mitm import process
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
process._raise_file_limit()
async def settle():
    process._Settled().running()
asyncio.run(settle())
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


HOLES = """
import json
from sidestream.mitm import memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
memory.give_back_what_is_large()
kept = []
bodies = []
for _ in range(200):
    bodies.append(b"x" * 500_000)
    kept.append(b"x" * 600)
full = resident()
bodies.clear()
memory.give_back_holes()
print(json.dumps([full, resident()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to do with memory")
def test_holes_in_the_heap_are_given_back():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)

    full, left = json.loads(done.stdout)
    assert full - left > 50_000_000
