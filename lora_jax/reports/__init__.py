"""What a run leaves for people and programs: tables, plots, one HTML page and results.json."""

from lora_jax.reports.page import Section, render_page, write_page
from lora_jax.reports.plots import Curve, curves_plot, tradeoff_plot
from lora_jax.reports.results import read_results, write_results
from lora_jax.reports.tables import Column, print_table
from lora_jax.reports.versions import installed_versions

__all__ = [
    "Column",
    "Curve",
    "Section",
    "curves_plot",
    "installed_versions",
    "print_table",
    "read_results",
    "render_page",
    "tradeoff_plot",
    "write_page",
    "write_results",
]
