"""Commands as processes of their own, killed at an exact moment, or telling when they have taken in a SIGTERM.

A test that polls for the moment comes too late on a busy machine: the command has ended by then.
"""

import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

_DIES = """
import os, re, runpy, signal, sys
from vemoclap_batch.store import table as tables

script, pattern, left = sys.argv[1], sys.argv[2], int(sys.argv[3])
write = tables.write_deltalake

def commits(path):
    global left
    if re.search(pattern, path):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

def writing(table, *arguments, **options):
    commits(table.table_uri)
    return write(table, *arguments, **options)

tables.write_deltalake = writing
sys.addaudithook(lambda event, arguments: commits(str(arguments[1])) if event == "os.rename" else None)
sys.argv = [script, *sys.argv[4:]]
runpy.run_path(script, run_name="__main__")
"""
_TELLS = """
import runpy, sys, threading
from pathlib import Path
import ray
from vemoclap_batch.shutdown import StopRequest

script, told = sys.argv[1], Path(sys.argv[2])
gently = StopRequest.gently

def telling(self, on_stop, **options):
    def stop():
        # Not in the signal's handler, which must not wait.
        threading.Thread(target=tell, args=[on_stop()]).start()

    def tell(answer):
        ray.get(answer)
        told.touch()

    return gently(self, stop, **options)

StopRequest.gently = telling
sys.argv = [script, *sys.argv[3:]]
runpy.run_path(script, run_name="__main__")
"""


def here(main, *arguments):
    """Run a program's ``main``, which ends by SystemExit, in this process; returns how it ended and what it wrote."""
    out, err, words = StringIO(), StringIO(), list(map(str, arguments))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(words)
        except SystemExit as ended:
            return subprocess.CompletedProcess(words, ended.code or 0, out.getvalue(), err.getvalue())
    raise AssertionError("a program ends by SystemExit")


def dying(pattern, number, script, *arguments):
    """The command that runs a script and kills itself at the n-th commit of a file, or of rows to a table.

    Args:
        pattern: a regular expression for the paths of the files, or of the folders of tables, that count.
        number: n, from 1; the n-th is not committed any more.
    """
    return [sys.executable, "-c", _DIES, *map(str, [script, pattern, number, *arguments])]


def telling(told, script, *arguments):
    """The command that runs a script and, asked by SIGTERM, makes a file once nothing new is begun any more."""
    return [sys.executable, "-c", _TELLS, *map(str, [script, told, *arguments])]
