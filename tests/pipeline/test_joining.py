"""A cluster that does not answer is said to be so, in seconds."""

import socket
import threading

import pytest

from vemoclap_batch.failure import RunBroken
from vemoclap_batch.pipeline import cluster


def test_an_address_where_nobody_answers(monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_S", 0.5)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(RunBroken, match=f"no Ray cluster answers at {address}: .*refused"):
            cluster.wait_for_answer(address)


def test_a_head_node_that_is_still_starting_is_waited_for():
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        late = threading.Timer(0.3, head.listen)
        late.start()
        cluster.wait_for_answer(f"127.0.0.1:{head.getsockname()[1]}")
        late.join()


@pytest.mark.parametrize("address", ["local", "auto", "ray://nobody.invalid:10001"])
def test_what_names_no_host_and_port_is_left_to_ray(address):
    cluster.wait_for_answer(address)
