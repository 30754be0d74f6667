"""The Ray Data graph: what is missing, the plan, the stages, the driver that commits."""
