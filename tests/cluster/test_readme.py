"""The README names every cluster file, and no file holds a secret."""

import re

from tests.cluster.files import CLUSTER, ROOT, a_file


def test_every_file_is_in_the_readme_and_every_name_there_exists():
    readme = a_file("README.md")
    for path in CLUSTER.rglob("*"):
        if path.is_file() and path.name != "README.md" and "__pycache__" not in path.parts:
            assert f"`{path.relative_to(CLUSTER)}`" in readme
    for name in re.findall(r"\bcluster/[\w./-]+\.(?:yaml|py|txt)", readme):
        assert (ROOT / name).is_file()


def test_no_secret_is_written_down():
    for path in CLUSTER.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"(AKIA[0-9A-Z]{16}|SECRET_ACCESS_KEY=[^…\s]|auth_token: \S)", path.read_text()), path
