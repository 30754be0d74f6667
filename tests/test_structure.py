"""The shape of the source tree: no circle of files, no file or function that is too long."""

import ast
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


def sources(folder):
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(folder.rglob("*.py"))}


def test_no_file_is_long_and_the_pipeline_has_few():
    files = {name: len(text.splitlines()) for name, text in (sources(PACKAGE) | sources(ROOT / "jobs")).items()}
    assert {name: lines for name, lines in files.items() if lines > 400} == {}
    assert len([name for name in files if name.startswith("vemoclap_batch/pipeline/")]) <= 12


def test_no_function_is_long():
    long = {}
    for name, text in (sources(PACKAGE) | sources(ROOT / "jobs")).items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60:
                long[f"{name}:{node.name}"] = node.end_lineno - node.lineno + 1
    assert not long
