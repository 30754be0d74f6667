"""Folders in folders, here and elsewhere."""

from vemoclap_batch.store.folder import Folder


def test_a_folder_below_keeps_what_the_address_says_of_the_connection(s3_out, s3_server):
    query = f"?endpoint_override=127.0.0.1%3A{s3_server.port}&scheme=http"
    above = Folder(s3_out + query)
    below = above / "seed-1"
    assert (above.name, below.name) == ("out", "seed-1")
    below.write("a.json", b"1")
    assert (Folder(s3_out) / "seed-1").read("a.json") == b"1"


def test_a_folder_here_may_have_a_question_mark_in_its_name(tmp_path):
    below = Folder(tmp_path / "who?") / "seed"
    below.write("a.json", b"1")
    assert (tmp_path / "who?" / "seed" / "a.json").read_bytes() == b"1"
