"""Arrays in, plotly figures out, one kind a file. Signed values are always on a diverging scale centred on 0."""

from workbench.figures.mixing_matrix import mixing_matrix_figure
from workbench.figures.sources import source_heads_figure

__all__ = ["mixing_matrix_figure", "source_heads_figure"]
