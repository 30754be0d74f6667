"""Subnormal weights of ONNX models are set to zero before they are loaded; nothing else changes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from vemoclap_batch.extractors.paddle_models import ONNX, Engine, bundled_detector
from vemoclap_batch.extractors.subnormal import without_subnormals

SMALLEST = np.finfo(np.float32).tiny


def model_folder(folder, values):
    """A model y = x * initializer * constant."""
    weights = numpy_helper.from_array(np.array(values, np.float32), "weights")
    constant = helper.make_node("Constant", [], ["constant"], value=numpy_helper.from_array(np.float32(values), "c"))
    nodes = [
        constant,
        helper.make_node("Mul", ["x", "weights"], ["z"]),
        helper.make_node("Mul", ["z", "constant"], ["y"]),
    ]
    places = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(values)]) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", places[:1], places[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "inference.onnx")
    (folder / "inference.yml").write_text("Global: {}")
    return folder


def test_only_subnormal_weights_become_zero(tmp_path):
    given = [1.5, SMALLEST, -SMALLEST / 2, 1e-45, 0.0, -3e-38]
    with without_subnormals(model_folder(tmp_path, given)) as folder:
        assert folder != tmp_path
        assert (folder / "inference.yml").read_text() == "Global: {}"
        model = onnx.load(folder / "inference.onnx")
    wanted = np.float32([1.5, SMALLEST, 0, 0, 0, -3e-38])
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), wanted)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.node[0].attribute[0].t), wanted)
    assert not folder.exists()


def test_a_model_without_any_is_used_as_it_is(tmp_path):
    with without_subnormals(model_folder(tmp_path, [1.0, SMALLEST])) as folder:
        assert folder == tmp_path
    with without_subnormals(tmp_path, "other.onnx") as folder:
        assert folder == tmp_path


def test_what_is_no_model_is_named(tmp_path):
    (tmp_path / "inference.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"inference\.onnx is no ONNX model"), without_subnormals(tmp_path):
        pass


def test_the_bundled_detector_finds_the_same(tmp_path):
    image = np.random.default_rng(0).random((1, 3, 96, 160), np.float32)

    def output(folder):
        session = onnxruntime.InferenceSession(folder / "inference.onnx", providers=["CPUExecutionProvider"])
        return session.run(None, {"x": image})[0]

    detector = bundled_detector(tmp_path)
    with Engine(ONNX)._runnable(detector) as folder:
        assert folder != detector
        np.testing.assert_array_equal(output(folder), output(detector))
