"""Questions about a data set: ablations, label errors, analysis, the tables of the paper."""
