"""What a run leaves for people and programs: tables, plots, one HTML page and results.json."""

from lora_jax.reports.bars import Bar, intervals_plot
from lora_jax.reports.curves import Curve, curves_plot, metric_curve
from lora_jax.reports.heat_maps import HeatMap, heat_maps_plot
from lora_jax.reports.latencies import milliseconds, response_table
from lora_jax.reports.page import Section, render_page, write_page
from lora_jax.reports.results import read_results, write_results
from lora_jax.reports.run import repeat_section, write_report
from lora_jax.reports.series import Series, SeriesPanel, series_panels, series_plot
from lora_jax.reports.tables import (
    Column,
    Published,
    brackets,
    plus_minus,
    print_table,
    published_rows,
)
from lora_jax.reports.tradeoff import Panel, tradeoff_panels, tradeoff_plot
from lora_jax.reports.versions import installed_versions

__all__ = [
    "Bar",
    "Column",
    "Curve",
    "HeatMap",
    "Panel",
    "Published",
    "Section",
    "Series",
    "SeriesPanel",
    "brackets",
    "curves_plot",
    "heat_maps_plot",
    "installed_versions",
    "intervals_plot",
    "metric_curve",
    "milliseconds",
    "plus_minus",
    "print_table",
    "published_rows",
    "read_results",
    "render_page",
    "repeat_section",
    "response_table",
    "series_panels",
    "series_plot",
    "tradeoff_panels",
    "tradeoff_plot",
    "write_page",
    "write_report",
    "write_results",
]
