"""Limits for a small bundle without a data set to measure them on: novelty of its own feature map, thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from trusted import trust_record

from edge_agent.model_bundle import NoveltyFacts, Tensor, Thresholds, open_bundle
from trainer.exporting.bundle_writer import onnx_session
from trainer.trusting.feature_tap import MEAN, SPREAD, feature_tap, with_pooled_outputs
from trainer.trusting.novelty import NOVELTY, NoveltyStatistics, novelty_statistics
from trainer.trusting.rewriting import rewritten
from trainer.trusting.trusted_graph import bare_model, trusted_model

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.model_bundle import Bundle

TEMPERATURE = 1.5


def with_limits(source: Path, out: Path, *, confidence: float = 0.1, most_novel: float = 3.0) -> Path:
    """Write the bundle with a temperature, a novelty and these thresholds into the new folder `out`."""
    bundle = open_bundle(source)
    statistics = _statistics(bundle)
    facts = NoveltyFacts(
        tensor=statistics.tensor,
        components=statistics.components,
        micrographs=statistics.micrographs,
        true_acceptance=0.95,
    )
    manifest = bundle.manifest.model_copy(
        update={
            "temperature": TEMPERATURE,
            "tensors": bundle.manifest.tensors.model_copy(
                update={"novelty": Tensor(name=NOVELTY, shape=bundle.manifest.tensors.input.shape[:1])}
            ),
            "novelty": facts,
            "thresholds": Thresholds(confidence=confidence, novelty=most_novel),
        }
    )
    model = trusted_model(bundle, TEMPERATURE, statistics)
    return rewritten(bundle, out, model, manifest, trust_record()).path


def _statistics(bundle: Bundle) -> NoveltyStatistics:
    """Of forty noisy fields; novelty 1 is what the most novel of them has."""
    tensors, (low, high) = bundle.manifest.tensors, bundle.manifest.preprocessing.value_range
    model, side = bare_model(bundle), bundle.manifest.preprocessing.input_px
    tap = feature_tap(model, tensors.probabilities.name, side)
    session = onnx_session(with_pooled_outputs(model, tap, ()))
    random = np.random.default_rng(0)
    seen = []
    for _ in range(40):
        grey = random.uniform(low, high) + random.normal(0, 0.2, (1, 1, side, side))
        fed = np.clip(grey, low, high).astype(np.float32)
        seen.append(session.run([MEAN, SPREAD], {tensors.input.name: fed}))
    mean, spread = (np.concatenate(one).reshape(len(seen), -1) for one in zip(*seen, strict=True))
    found = novelty_statistics(tap, mean, spread, micrographs=len(seen))
    unit = float(found.novelty(mean, spread).max())
    return NoveltyStatistics(found.tensor, found.floor, found.centre, found.projection, len(seen), unit)
