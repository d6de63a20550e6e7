"""Reports: one HTML page that needs nothing but a browser."""

from downstream.report.build import Embedding, build_report

__all__ = ["Embedding", "build_report"]
