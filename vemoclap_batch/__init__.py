"""Label the emotions of videos at scale: VEMOCLAP as a Ray-distributed batch pipeline."""

__version__ = "0.1.0"
