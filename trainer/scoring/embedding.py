"""A map of the micrographs by what the network sees in them: its last features, averaged over the field.

The features are not an output of a bundle; they are what its evidence maps are computed from. Only this module
knows how a bundle's graph is given that further output, in memory: the bundle stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from edge_agent.preprocessing import cut_tiles
from trainer.scoring.evaluation import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from edge_agent.micrograph import Micrograph
    from edge_agent.model_bundle import Bundle, Manifest
    from trainer.preparing.crops import DataSet
    from trainer.scoring.evaluation import Source

POOLED: Final = "pooled_features"
FEWEST: Final = 3
"""Micrographs for a map at all."""
FEWEST_FOR_NEIGHBOURS: Final = 30
"""Below this a map of neighbourhoods has none; principal components are shown instead."""
_COMPONENTS: Final = 50
_EXACT_BELOW: Final = 200
_NEAREST: Final = 5
_CONVOLUTIONS: Final = frozenset({"Conv", "ConvInteger", "QLinearConv"})


class EmbeddingError(Exception):
    """A bundle's features cannot be had, or there are too few micrographs for a map; the message says which."""


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """`points` [n, 2] of the sources at `rows`, in their order."""

    rows: tuple[int, ...]
    """Which of the sources could be read."""
    points: NDArray[np.float64]
    method: Literal["t-SNE", "PCA"]
    explained: tuple[float, float] | None
    """Shares of the variance along the two axes, with PCA."""
    neighbours_agree: float | None
    """Share whose nearest outside their own group has their class, of those who have one there; None for nobody."""
    strangers: tuple[int, ...]
    """Places in `rows` of those farthest from their own class, the farthest first."""
    channels: int


def embedding(
    bundle: Bundle,
    dataset: DataSet,
    sources: Sequence[Source],
    *,
    strangers: int = 8,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> EmbeddingMap:
    """Lay out sources so that those which look alike to the network stand together.

    Raises:
        EmbeddingError: fewer than three can be read, or the graph has no features to be had.

    """
    session, manifest = _session(bundle), bundle.manifest
    rows, found = [], []
    for index, (_, micrograph) in enumerate(readable(dataset, sources)):
        progress("features", index, len(sources))
        if not isinstance(micrograph, str):
            rows.append(index)
            found.append(_pooled(session, manifest, micrograph, sources[index]))
    progress("features", len(sources), len(sources))
    if len(rows) < FEWEST:
        raise EmbeddingError(f"{len(rows)} micrographs can be read; a map needs at least {FEWEST}")
    labels = np.array([sources[row].label for row in rows])
    groups = np.array([sources[row].group for row in rows])
    return layout(np.stack(found), labels, groups, tuple(rows), strangers, seed)


def layout(
    features: NDArray[np.float64],
    labels: NDArray[np.str_],
    groups: NDArray[np.str_],
    rows: tuple[int, ...],
    strangers: int,
    seed: int,
) -> EmbeddingMap:
    """Lay out features [n, channels]: t-SNE of their first principal components, or with few these themselves."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count = len(features)
    with np.errstate(invalid="ignore"):  # where all are equal nothing is explained
        reduced = PCA(min(_COMPONENTS, *features.shape), svd_solver="full").fit(features)
    components = reduced.transform(features)
    distances = _distances(components)
    explained: tuple[float, float] | None = None
    if count >= FEWEST_FOR_NEIGHBOURS and components.std() > 0:
        exactly = "exact" if count < _EXACT_BELOW else "barnes_hut"
        perplexity = min(30.0, (count - 1) / 3)
        drawn = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, method=exactly)
        points = drawn.fit_transform(components).astype(np.float64)
    else:
        points = np.pad(components, ((0, 0), (0, 1)))[:, :2]
        shares = np.nan_to_num(np.pad(reduced.explained_variance_ratio_, (0, 1))[:2])
        explained = round(float(shares[0]), 3), round(float(shares[1]), 3)
    return EmbeddingMap(
        rows=rows,
        points=points,
        method="PCA" if explained is not None else "t-SNE",
        explained=explained,
        neighbours_agree=_agreement(distances, labels, groups),
        strangers=_strangers(distances, labels, strangers),
        channels=features.shape[1],
    )


def _distances(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between every two, [n, n]; never to itself."""
    squares = (components**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * components @ components.T, 0))
    np.fill_diagonal(distances, np.inf)
    return np.asarray(distances)


def _agreement(
    distances: NDArray[np.float64], labels: NDArray[np.str_], groups: NDArray[np.str_]
) -> float | None:
    others = np.where(groups[:, None] == groups, np.inf, distances)
    # Whoever is alone of its class outside its group could not agree with anybody.
    asked = (np.isfinite(others) & (labels[:, None] == labels)).any(axis=1)
    if not asked.any():
        return None
    return round(float((labels[others.argmin(axis=1)] == labels)[asked].mean()), 4)


def _strangers(distances: NDArray[np.float64], labels: NDArray[np.str_], most: int) -> tuple[int, ...]:
    """Those whose nearest of the own class are farthest off, by the class's own measure."""
    own = np.sort(np.where(labels[:, None] == labels, distances, np.inf), axis=1)[:, :_NEAREST]
    finite = np.isfinite(own)
    near = np.where(finite, own, 0).sum(axis=1) / np.maximum(finite.sum(axis=1), 1)
    for label in np.unique(labels):
        mine = labels == label
        near[mine] = near[mine] / max(float(np.median(near[mine])), 1e-12) if mine.sum() > _NEAREST else 0.0
    ranked = np.lexsort((np.arange(len(near)), -near))
    return tuple(int(at) for at in ranked[:most] if near[at] > 1.5)


def _pooled(session: Any, manifest: Manifest, micrograph: Micrograph, source: Source) -> NDArray[np.float64]:  # noqa: ANN401
    tiles = cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, manifest.preprocessing).tiles
    chosen = [tile for tile in tiles if source.box_px in (None, tile.box_px)]
    answers = [session.run([POOLED], {manifest.tensors.input.name: tile.values[None]})[0] for tile in chosen]
    return np.asarray(np.concatenate(answers).mean(axis=0), dtype=np.float64)


def _session(bundle: Bundle) -> Any:  # noqa: ANN401
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    try:
        model = with_pooled_features(bundle.model_bytes, bundle.manifest)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except EmbeddingError:
        raise
    except Exception as error:  # ONNX Runtime raises its own classes, one for each status code
        raise EmbeddingError(f"{bundle.path}: the features cannot be computed ({error})") from error


def with_pooled_features(model_bytes: bytes, manifest: Manifest) -> bytes:
    """Give a graph the output `pooled_features` [n, channels]: what its evidence maps read, field averages.

    Those of several members are put side by side.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(model_bytes)
    graph = model.graph
    pooled = []
    for index, name in enumerate(_feature_tensors(graph, manifest)):
        pooled.append(f"{POOLED}_{index}")
        graph.node.append(helper.make_node("GlobalAveragePool", [name], [pooled[-1]], name=pooled[-1]))
    graph.node.append(helper.make_node("Concat", pooled, [f"{POOLED}_maps"], axis=1, name=f"{POOLED}_maps"))
    graph.node.append(helper.make_node("Flatten", [f"{POOLED}_maps"], [POOLED], axis=1, name=POOLED))
    graph.output.append(helper.make_tensor_value_info(POOLED, TensorProto.FLOAT, [None, None]))
    return bytes(model.SerializeToString())


def _feature_tensors(graph: Any, manifest: Manifest) -> list[str]:  # noqa: ANN401
    """The inputs of the convolutions that draw the evidence maps, found backwards from the bundle's map."""
    maker = {output: node for node in graph.node for output in node.output}
    cam = manifest.tensors.cam
    if manifest.cam.method != "cam" or cam is None:
        waiting = [manifest.cam.tensor]
        found = [name for name in waiting if name in maker]
    else:
        waiting, found, seen = [cam.name], [], set()
        while waiting:
            name = waiting.pop(0)
            node = maker.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            if node.op_type in _CONVOLUTIONS:
                found.append(node.input[0])
            else:
                waiting += node.input
    if not found:
        raise EmbeddingError(
            f"the graph of {manifest.name} {manifest.version} has no features that a map is drawn from"
        )
    return list(dict.fromkeys(found))
