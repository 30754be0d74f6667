"""The fusion classifier: model, data, training, evaluation and checkpoints, in plain torch."""
