"""How the lite checkpoints are made and measured: data sets in, weights and scores out."""
