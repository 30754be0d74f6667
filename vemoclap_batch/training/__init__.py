"""Training of the fusion model, on one machine or over a Ray cluster."""
