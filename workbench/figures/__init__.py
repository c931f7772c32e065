"""Arrays in, plotly figures out, one kind a file. Signed values are always on a diverging scale centred on 0."""

from workbench.figures.by_layer import LayerPanel, by_layer_figure
from workbench.figures.changed_tokens import changed_tokens_figure
from workbench.figures.component_scores import component_scores_figure
from workbench.figures.dynamic_share import dynamic_share_figure
from workbench.figures.head_matrices import head_matrices_figure
from workbench.figures.head_scatter import head_scatter_figure
from workbench.figures.metric_pairs import metric_pairs_figure
from workbench.figures.mixing_matrix import mixing_matrix_figure
from workbench.figures.next_token_pairs import next_token_pairs_figure
from workbench.figures.probe_differences import probe_differences_figure
from workbench.figures.probe_scores import probe_scores_figure
from workbench.figures.sources import source_heads_figure
from workbench.figures.sweep_cells import sweep_cells_figure
from workbench.figures.task_accuracy import task_accuracy_figure, task_differences_figure
from workbench.figures.virtual_head_flow import virtual_head_flow_figure
from workbench.figures.virtual_head_keys import virtual_head_keys_figure

__all__ = [
    "LayerPanel",
    "by_layer_figure",
    "changed_tokens_figure",
    "component_scores_figure",
    "dynamic_share_figure",
    "head_matrices_figure",
    "head_scatter_figure",
    "metric_pairs_figure",
    "mixing_matrix_figure",
    "next_token_pairs_figure",
    "probe_differences_figure",
    "probe_scores_figure",
    "source_heads_figure",
    "sweep_cells_figure",
    "task_accuracy_figure",
    "task_differences_figure",
    "virtual_head_flow_figure",
    "virtual_head_keys_figure",
]
