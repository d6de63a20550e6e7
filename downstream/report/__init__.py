"""Reports: one HTML page that needs nothing but a browser."""

from downstream.report.build import Page, build_report
from downstream.report.embedding import Embedding, embed_scenes

__all__ = ["Embedding", "Page", "build_report", "embed_scenes"]
