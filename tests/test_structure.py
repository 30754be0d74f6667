"""The shape of the source tree: no circle of files, no file or function that is too long."""

import graphlib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vemoclap_batch"


def test_no_file_imports_itself_through_others():
    graph = grimp.build_graph("vemoclap_batch", "bench", "fuzz", "lite", cache_dir=None)
    # The package names its Python interface for type checkers, and imports it when a name of it is asked for.
    graph.remove_import(importer="vemoclap_batch", imported="vemoclap_batch.api")
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imported) > 100
    list(graphlib.TopologicalSorter(imported).static_order())  # raises CycleError, which names the circle
