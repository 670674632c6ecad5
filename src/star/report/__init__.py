"""A run as things to look at: one self-contained HTML file, and the front as a picture. Reads runs, prints nothing."""

from star.report.comparison import Comparison, comparison
from star.report.page import write_report
from star.report.picture import write_picture

__all__ = ["Comparison", "comparison", "write_picture", "write_report"]
