"""Exports: what tables say of videos, as the files of tools that people label, play and train with."""
