"""TensorBoard's table of settings against scores, made by its own plugin."""

from pathlib import Path

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context as BackendContext
from tensorboard.plugins.hparams.list_session_groups import Handler as ListSessionGroups


def table_of(folder: Path) -> dict[tuple, dict[str, float]]:
    """Return TensorBoard's table of settings against scores, made by its own plugin."""
    runs = EventMultiplexer().AddRunsFromDirectory(str(folder))
    runs.Reload()
    provider = MultiplexerDataProvider(runs, str(folder))
    backend, request = BackendContext(TBContext(data_provider=provider)), RequestContext()
    found = backend.experiment_from_metadata(
        request, "0", True, backend.hparams_metadata(request, "0"), []
    )
    columns = [api_pb2.ColParams(metric=metric.name) for metric in found.metric_infos]
    columns += [api_pb2.ColParams(hparam=setting.name) for setting in found.hparam_infos]
    query = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=api_pb2.Status.values(), slice_size=100, col_params=columns
    )
    response = ListSessionGroups(request, backend, "0", query).run()
    return {
        tuple(sorted((name, _value(cell)) for name, cell in group.hparams.items())): {
            metric.name.tag: metric.value for metric in group.metric_values
        }
        for group in response.session_groups
    }


def _value(cell):
    return getattr(cell, cell.WhichOneof("kind"))
