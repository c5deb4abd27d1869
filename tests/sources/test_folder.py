import os
from pathlib import Path

import pytest

from sidestream.core.secret import Secret
from sidestream.demo.certificates import Authority
from sidestream.policy.keys import FromEnvironment, FromFile, FromSecret, Unavailable
from sidestream.policy.problems import Severity
from sidestream.sources.folder import FilesAndEnvironment, Folder, Reading
from tests.policy.written import config, provider, together


def read(path: Path, **environment: str) -> Reading:
    return Folder(path, environment).read()


def hosts(path: Path) -> list[str]:
    return sorted(read(path).compilation.require().hosts)


def said(path: Path) -> list[str]:
    return [str(problem).replace(str(path), "DIR") for problem in read(path).compilation.problems]


def write(path: Path, host: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(provider(f"host: {host}", name=host))
    return path


# What counts as a document.


def test_every_yaml_file_below_the_folder_counts(tmp_path):
    write(tmp_path / "a.yaml", "a.example")
    write(tmp_path / "b.yml", "b.example")
    write(tmp_path / "deep/er/c.yaml", "c.example")
    write(tmp_path / "name.with.dots.yaml", "d.example")
    write(tmp_path / "folder.yaml/e.yaml", "e.example")

    assert hosts(tmp_path) == ["a.example", "b.example", "c.example", "d.example", "e.example"]


def test_a_file_may_hold_many_documents(tmp_path):
    (tmp_path / "a.yaml").write_text(together(*(provider(f"host: {name}.example", name=name) for name in "abc")))

    assert hosts(tmp_path) == ["a.example", "b.example", "c.example"]


@pytest.mark.parametrize(
    "name", [".a.yaml", ".hidden/a.yaml", "..data/a.yaml", "a.yaml~", "a.yaml.bak", "a.txt", "a.json", "yaml", "A.YAML"]
)
def test_other_names_do_not_count(tmp_path, name):
    write(tmp_path / "b.yaml", "b.example")
    write(tmp_path / name, "a.example")

    assert hosts(tmp_path) == ["b.example"]


def test_a_single_file_may_have_any_name(tmp_path):
    assert hosts(write(tmp_path / ".policy", "a.example")) == ["a.example"]


def test_a_hidden_folder_may_be_the_one_that_is_asked_for(tmp_path):
    write(tmp_path / ".policies/a.yaml", "a.example")

    assert hosts(tmp_path / ".policies") == ["a.example"]


def test_a_link_counts_as_what_it_leads_to(tmp_path):
    write(tmp_path / "elsewhere/a.yaml", "a.example")
    write(tmp_path / "far/b.yaml", "b.example")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/link.yaml").symlink_to("../elsewhere/a.yaml")
    (tmp_path / "policies/folder").symlink_to("../far")
    (tmp_path / "all").symlink_to("policies")

    assert hosts(tmp_path / "policies") == hosts(tmp_path / "all") == ["a.example", "b.example"]


def test_a_link_that_leads_back_up_is_followed_once(tmp_path):
    write(tmp_path / "a/a.yaml", "a.example")
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "self").symlink_to(".")

    assert hosts(tmp_path) == ["a.example"]


def test_a_folder_with_two_names_is_read_once(tmp_path):
    write(tmp_path / "a/a.yaml", "a.example")
    (tmp_path / "b").symlink_to("a")

    reading = read(tmp_path)

    assert list(reading.documents) == [tmp_path / "a/a.yaml"]


def test_a_link_to_itself_is_reported(tmp_path):
    (tmp_path / "a.yaml").symlink_to("a.yaml")

    (problem,) = said(tmp_path)
    assert problem.startswith("DIR/a.yaml: error: can't be read: Too many levels of symbolic links")


def test_a_link_that_leads_nowhere_is_left_out_and_said(tmp_path):
    write(tmp_path / "b.yaml", "b.example")
    (tmp_path / "a.yaml").symlink_to("gone.yaml")

    assert hosts(tmp_path) == ["b.example"]
    assert said(tmp_path) == ["DIR/a.yaml: warning: a link that leads nowhere, left out"]


# What can't be read.


def test_a_folder_that_is_not_there_is_reported(tmp_path):
    assert said(tmp_path / "policies") == ["DIR: error: no such file or folder"]


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n", "apiVersion: v1\nkind: Service\n"])
def test_a_folder_without_documents_is_a_warning(tmp_path, text):
    if text is not None:
        (tmp_path / "a.yaml").write_text(text)

    reading = read(tmp_path)

    (problem,) = reading.compilation.problems
    assert (problem.severity, problem.file, problem.line) == (Severity.WARNING, str(tmp_path), 0)
    assert "holds no LLMProvider or LLMRoute: nothing is governed" in problem.message
    assert dict(reading.compilation.require().hosts) == {}


def test_a_file_that_may_not_be_read_is_reported_and_the_others_are_looked_at(as_nobody):
    write(as_nobody / "a.yaml", "a.example").chmod(0)
    (as_nobody / "b.yaml").write_text(provider("host: 7"))

    one, other = said(as_nobody)
    assert one == "DIR/a.yaml: error: can't be read: Permission denied"
    assert other.startswith("DIR/b.yaml:5: error: LLMProvider default/alpha spec.host: must be text")


def test_a_folder_that_may_not_be_listed_is_reported(as_nobody):
    write(as_nobody / "a.yaml", "a.example")
    write(as_nobody / "deep/b.yaml", "b.example")
    (as_nobody / "deep").chmod(0)

    problems = said(as_nobody)
    (as_nobody / "deep").chmod(0o700)

    assert problems == ["DIR/deep: error: can't be read: Permission denied"]


def test_a_folder_out_of_reach_is_reported(as_nobody):
    write(as_nobody / "deep/policies/a.yaml", "a.example")
    (as_nobody / "deep").chmod(0)

    problems = said(as_nobody / "deep/policies")
    (as_nobody / "deep").chmod(0o700)

    assert problems == ["DIR: error: no such file or folder"]


def test_a_file_that_becomes_readable_is_a_change(as_nobody):
    path = write(as_nobody / "a.yaml", "a.example")
    path.chmod(0)
    folder = Folder(as_nobody, {})
    reading = folder.read()

    path.chmod(0o600)

    assert folder.changed_since(reading)


def test_a_name_that_is_no_text_can_be_shown(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.yaml")).write_text("a: [")

    (problem,) = said(tmp_path)
    assert problem.isprintable()
    assert "caf\\udce9.yaml" in problem


# What is a change.


def test_nothing_is_no_change(tmp_path):
    write(tmp_path / "a/a.yaml", "a.example")
    folder = Folder(tmp_path, {})

    assert not folder.changed_since(folder.read())


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write(folder / "a.yaml", "longer.example"),
        lambda folder: write(folder / "new.yaml", "new.example"),
        lambda folder: write(folder / "new/new.yaml", "new.example"),
        lambda folder: (folder / "a.yaml").unlink(),
        lambda folder: (folder / "a.yaml").rename(folder / "b.yaml"),
        lambda folder: (folder / "a.yaml").replace(folder / "deep/d.yaml"),
        lambda folder: (folder / "deep").rename(folder / "deeper"),
        lambda folder: write(folder / ".a.yaml", "b.example").replace(folder / "a.yaml"),
        lambda folder: (folder / "link.yaml").symlink_to("a.yaml"),
    ],
    ids=["text", "new", "new folder", "gone", "renamed", "replaced", "folder renamed", "swapped", "link"],
)
def test_what_documents_say_and_are_called_is_looked_at(tmp_path, change):
    write(tmp_path / "a.yaml", "a.example")
    write(tmp_path / "deep/d.yaml", "d.example")
    folder = Folder(tmp_path, {})
    reading = folder.read()

    change(tmp_path)

    assert folder.changed_since(reading)


@pytest.mark.parametrize("name", [".new.yaml", "new.txt", ".new/new.yaml"])
def test_what_is_no_document_is_no_change(tmp_path, name):
    write(tmp_path / "a.yaml", "a.example")
    folder = Folder(tmp_path, {})
    reading = folder.read()

    write(tmp_path / name, "new.example")

    assert not folder.changed_since(reading)


def test_a_file_that_keeps_its_size_and_time_is_a_change_when_it_is_another(tmp_path):
    path = write(tmp_path / "a.yaml", "a.example")
    folder = Folder(tmp_path, {})
    reading = folder.read()

    other = write(tmp_path / "b", "b.example")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)

    assert folder.changed_since(reading)


def test_a_folder_that_appears_or_goes_is_a_change(tmp_path):
    folder = Folder(tmp_path / "policies", {})
    nothing = folder.read()

    path = write(tmp_path / "policies/a.yaml", "a.example")
    something = folder.read()

    assert folder.changed_since(nothing)
    path.unlink()
    assert folder.changed_since(something)


def test_a_config_map_is_read_once_and_its_swap_is_seen(mount):
    volume = mount(a_yaml=provider("host: a.example"), b_yaml=provider("host: b.example", name="beta"))
    folder = Folder(volume, {})
    reading = folder.read()

    assert sorted(reading.compilation.require().hosts) == ["a.example", "b.example"]
    assert not folder.changed_since(reading)
    mount(a_yaml=provider("host: c.example"))
    assert folder.changed_since(reading)
    assert sorted(folder.read().compilation.require().hosts) == ["c.example"]


def test_a_secret_is_read_as_a_file_and_its_swap_is_seen(tmp_path, mount):
    volume = mount(key="sk-1\n")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/a.yaml").write_text(config(f"apiKeyFrom: {{file: {volume}/key}}"))
    folder = Folder(tmp_path / "policies", {})
    reading = folder.read()

    mount(key="sk-2\n")

    assert folder.changed_since(reading)
    assert folder.read().compilation.require().hosts["api.alpha.example"].config.key == Secret("sk-2")


def test_a_key_file_that_appears_changes_or_goes_is_a_change(tmp_path):
    (tmp_path / "a.yaml").write_text(config("apiKeyFrom: {file: key}"))
    key = tmp_path / "key"
    folder = Folder(tmp_path, {})

    missing = folder.read()
    key.write_text("sk-1")
    there = folder.read()
    assert folder.changed_since(missing)
    assert not folder.changed_since(there)

    key.write_text("sk-12")
    changed = folder.read()
    assert folder.changed_since(there)

    key.unlink()
    assert folder.changed_since(changed)


def test_a_ca_file_that_changes_is_a_change(tmp_path):
    authority = Authority.create(tmp_path / "ca")
    ca_file = tmp_path / "trusted.crt"
    ca_file.write_text(authority.ca_file.read_text())
    (tmp_path / "a.yaml").write_text(provider("host: a.example\nendpoint: {tls: {caFile: trusted.crt}}"))
    folder = Folder(tmp_path, {})
    reading = folder.read()

    ca_file.write_text(f"# again\n{authority.ca_file.read_text()}")

    assert reading.compilation.problems == ()
    assert folder.changed_since(reading)


def test_what_changes_while_it_is_read_is_read_again(tmp_path):
    class Changing(Folder):
        """A folder that is written to between two looks, twice."""

        left = 2

        def _stamps(self):
            if self.left:
                self.left -= 1
                write(tmp_path / f"{self.left}.yaml", f"{self.left}.example")
            return super()._stamps()

    folder = Changing(tmp_path, {})

    reading = folder.read()

    assert sorted(reading.compilation.require().hosts) == ["0.example", "1.example"]
    assert not folder.changed_since(reading)


# What documents refer to.


def test_keys_come_from_the_environment_and_from_files(tmp_path):
    (tmp_path / "key").write_text("sk-file\n")
    resolver = FilesAndEnvironment({"K": "sk-env"})

    assert resolver.key(FromEnvironment("K")) == "sk-env"
    assert resolver.key(FromFile(tmp_path / "key")) == "sk-file\n"
    assert list(resolver.stamps) == [tmp_path / "key"]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (FromEnvironment("K"), "the environment variable K is not set: set it where Sidestream runs"),
        (FromFile(Path("/nonexistent/key")), "/nonexistent/key can't be read: No such file or directory"),
        (FromFile(Path("/")), "/ can't be read: Is a directory"),
        (FromFile(Path("a\0b")), "can't be the name of a file"),
        (
            FromSecret("apps", "keys", "alpha"),
            "key 'alpha' of the Secret 'keys' can't be read from a folder: use file or env",
        ),
    ],
)
def test_what_can_not_be_had_is_said_with_what_to_do(reference, words):
    with pytest.raises(Unavailable) as raised:
        FilesAndEnvironment({}).key(reference)

    assert words in str(raised.value)


def test_a_reference_is_relative_to_its_document(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/key").write_text("sk-deep")
    (tmp_path / "deep/a.yaml").write_text(config("apiKeyFrom: {file: key}"))

    found = read(tmp_path).compilation.require().hosts["api.alpha.example"]

    assert found.config.key == Secret("sk-deep")
