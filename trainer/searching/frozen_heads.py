"""Heads fitted on features of a frozen backbone: the cheap stage of a hyperparameter search.

The backbone's last feature maps are computed once for each strength of augmentation and kept on disk; a head is
then fitted in seconds, by the batches, steps and rates of a run (`fitting.batches`, `fitting.steps`).
Where the head has no width, its input is averaged first: average and 1x1 convolution may change places, so the
result is the same. Scores come from held-out crops shown whole, as the agent shows them: those of the validation
part, or every crop once in grouped folds.

Only this module knows how much of a large data set is looked at: at most `FEATURE_BYTES` of maps.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from filelock import FileLock

from trainer.fitting.backbones import Backbone, build_backbone
from trainer.fitting.batches import Batches
from trainer.fitting.devices import devices
from trainer.fitting.features import view_features, whole_features
from trainer.fitting.network import build_network
from trainer.fitting.run_folder import Epoch
from trainer.fitting.steps import Stage, Steps, rates
from trainer.fitting.training import TrainingFailed
from trainer.preparing.split import grouped_folds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.fitting.network import Network
    from trainer.fitting.run_folder import Recipe
    from trainer.preparing.crops import Crop, DataSet

EPOCHS: Final = 15
VIEWS: Final = 4
FEATURE_BYTES: Final = 4 * 2**30
_LOSS_WEIGHT: Final = 0.1
_CELLS_AT_ONCE: Final = 2000
"""Of maps, of which each holds a thousand numbers or two."""


class HeldOutScore(NamedTuple):
    """How held-out crops were answered: class-balanced cross-entropy in nats and class-balanced accuracy."""

    loss: float
    accuracy: float

    @property
    def score(self) -> float:
        """What a search maximises. A tenth of the loss decides where few crops make accuracies equal."""
        return self.accuracy - _LOSS_WEIGHT * self.loss


@dataclass(frozen=True, slots=True)
class HeadData:
    """What heads are fitted on and scored by; `folds` are (rows to fit on, rows held out) into `crops`."""

    dataset: DataSet
    crops: tuple[Crop, ...]
    folds: tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]

    @property
    def fitted(self) -> tuple[int, ...]:
        """Rows that any head is fitted on."""
        return tuple(np.unique(np.concatenate([rows for rows, _ in self.folds])).tolist())

    @property
    def held_out(self) -> tuple[int, ...]:
        """Rows that any head is scored by."""
        return tuple(np.unique(np.concatenate([rows for _, rows in self.folds])).tolist())


def head_data(dataset: DataSet, folds: int, seed: int, most: int) -> HeadData:
    """Divide the training and validation parts for the first stage; never looks at the test part.

    With `folds` of 2 or more, grouped folds over both parts; otherwise the validation part is held out. At most
    `most` crops are taken, drawn by chance.
    """
    crops = _fewer((*dataset.train, *dataset.validation), most, seed)
    rows = {crop.crop_id: index for index, crop in enumerate(crops)}
    if folds < 2:
        validation = {crop.crop_id for crop in dataset.validation}
        held = np.array([crop.crop_id in validation for crop in crops])
        return HeadData(dataset, crops, ((np.flatnonzero(~held), np.flatnonzero(held)),))
    led = {crop.crop_id for crop in crops if crop.answer_seen}  # they train, and choose nothing
    dealt = grouped_folds(crops, folds, seed)
    return HeadData(
        dataset,
        crops,
        tuple(
            (
                np.array([rows[crop_id] for crop_id in fold.train_ids]),
                np.array([rows[crop_id] for crop_id in fold.held_out_ids if crop_id not in led]),
            )
            for fold in dealt
        ),
    )


def _fewer(crops: Sequence[Crop], most: int, seed: int) -> tuple[Crop, ...]:
    """All crops, or so many of them that every class keeps an equal chance, in their order."""
    if len(crops) <= most:
        return tuple(crops)
    by_label: dict[tuple[str, str], int] = {}
    for crop in crops:
        by_label[crop.part, crop.label] = by_label.get((crop.part, crop.label), 0) + 1
    weights = np.array([1 / by_label[crop.part, crop.label] for crop in crops])
    chosen = np.random.default_rng(seed).choice(
        len(crops), most, replace=False, p=weights / weights.sum(), shuffle=False
    )
    return tuple(crops[index] for index in sorted(chosen.tolist()))


class FrozenHeads:
    """Fits heads on frozen features, which it computes when a strength of augmentation is first asked for."""

    def __init__(
        self,
        dataset: DataSet,
        base: Recipe,
        store: Path,
        own: Path,
        *,
        strengths: int,
        folds: int = 0,
        seed: int = 0,
        progress: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        self._base, self._store, self._seed, self._progress = base, store, seed, progress
        self._network = _whole_backbone(dataset.labels, base, seed)
        self._views, most = _bounded(self._network, base, len(dataset.train), strengths)
        self.data = head_data(dataset, folds, seed, most)
        self._targets = np.array([dataset.labels.index(crop.label) for crop in self.data.crops])
        self._wholes = self._whole_maps(own)
        self._averages: dict[str, NDArray[np.float16]] = {}

    def fit(self, recipe: Recipe, *, seed: int) -> Iterator[HeldOutScore]:
        """Fit a head for each fold and give their common score after every epoch.

        The recipe's augmentation, head, optimizer, schedule and balance are used; its backbone is the search's.

        Raises:
            TrainingFailed: the loss is no number any more.

        """
        import keras

        keras.utils.set_random_seed(seed)
        recipe = recipe.model_copy(update={"views": self._views, "mixed_precision": False})
        maps = self._view_maps(recipe)
        heads = [
            _Head(self._network, self._batches(recipe, maps, rows, seed + index))
            for index, (rows, _) in enumerate(self.data.folds)
        ]
        rows_held = np.array(self.data.held_out)
        logits = np.empty((len(self.data.crops), len(self._network.labels)), dtype=np.float32)
        for epoch in range(EPOCHS):
            losses = [head.fit_epoch(epoch) for head in heads]
            for head, (_, held) in zip(heads, self.data.folds, strict=True):
                logits[held] = head.logits([self._wholes[row] for row in held.tolist()])
            found = balanced_score(logits[rows_held], self._targets[rows_held])
            if not all(map(math.isfinite, (*losses, found.loss))):
                raise TrainingFailed(f"the loss of the head is no number any more after epoch {epoch + 1}")
            for head, loss in zip(heads, losses, strict=True):
                head.history.append(Epoch("head", epoch + 1, loss, found.loss, found.accuracy))
            yield found

    def _batches(
        self, recipe: Recipe, maps: NDArray[np.float16], rows: NDArray[np.intp], seed: int
    ) -> Batches:
        place = {row: index for index, row in enumerate(self.data.fitted)}
        return Batches(
            views=maps,
            rows=np.array([place[row] for row in rows.tolist()]),
            targets=self._targets[rows],
            classes=len(self._network.labels),
            recipe=recipe,
            seed=seed,
        )

    def _view_maps(self, recipe: Recipe) -> NDArray[np.float16]:
        """Maps [rows, views, h, w, channels] of the recipe's augmentation; averaged where the head has no width."""
        crops = tuple(replace(self.data.crops[row], part="train") for row in self.data.fitted)
        key = recipe.augmentation.model_dump_json()
        keyed = self._base.model_copy(
            update={
                "augmentation": recipe.augmentation,
                "views": self._views,
                "fine_tune_from": "behind its last layer",
            }
        )
        chosen = replace(self.data.dataset, crops=crops, fingerprint=_ids(crops))
        store = self._store / f"frozen-{_short(key)}"
        store.mkdir(parents=True, exist_ok=True)
        with FileLock(store / "making.lock"):
            maps = view_features(
                chosen, keyed, self._network, store, self._seed, self._shown("frozen features")
            )
        if recipe.head_width:
            return maps
        if key not in self._averages:
            averages = [crop.mean(axis=(1, 2), keepdims=True, dtype=np.float32) for crop in maps]
            self._averages[key] = np.stack(averages).astype(np.float16)
        return self._averages[key]

    def _whole_maps(self, own: Path) -> dict[int, NDArray[np.float16]]:
        rows = self.data.held_out
        crops = [self.data.crops[row] for row in rows]
        shown = self._shown("held-out crops")
        maps = whole_features(self.data.dataset, crops, self._network, own, shown)
        return dict(zip(rows, maps, strict=True))

    def _shown(self, what: str) -> Callable[[str, int, int], None]:
        return lambda _, done, total: self._progress(what, done, total)


class _Head:
    """One head in training, by the steps and rates of a run's first stage."""

    def __init__(self, whole: Network, batches: Batches) -> None:
        recipe, where = batches.recipe, devices()
        where.share(recipe.batch)
        with where.strategy.scope():
            self._network = build_network(whole.backbone, whole.labels, recipe.dropout, recipe.head_width)
        self._batches = batches
        self._stage = Stage("head", EPOCHS, recipe.head_learning_rate, whole_top=False)
        self._steps = Steps(self._network, recipe, self._stage, where, half=False)
        self.history: list[Epoch] = []

    def fit_epoch(self, epoch: int) -> float:
        """Run one epoch (from 0); returns the mean loss of its steps."""
        steps = self._batches.steps
        at_rates = rates(self._stage, self._batches.recipe, epoch, steps, self.history)
        drawn = self._batches.drawn("head", epoch * steps, (epoch + 1) * steps)
        return self._steps.run(epoch, drawn, at_rates, lambda _: None).loss

    def logits(self, maps: Sequence[NDArray[np.float16]]) -> NDArray[np.float32]:
        """Logits [crops, labels] of whole crops, whose maps differ in shape."""
        if not self._batches.recipe.head_width:
            maps = [one.mean(axis=(0, 1), keepdims=True, dtype=np.float32).astype(np.float16) for one in maps]
        answers = np.empty((len(maps), len(self._network.labels)), dtype=np.float32)
        for shape in sorted({one.shape for one in maps}):
            rows = [row for row, one in enumerate(maps) if one.shape == shape]
            at_once = max(1, _CELLS_AT_ONCE // math.prod(shape[:2]))
            for start in range(0, len(rows), at_once):
                some = rows[start : start + at_once]
                batch = np.stack([maps[row] for row in some]).astype(np.float32)
                answers[some] = np.asarray(self._network.trainable(batch, training=False))
        return answers


def balanced_score(logits: NDArray[np.float32], targets: NDArray[np.intp]) -> HeldOutScore:
    """Average cross-entropy and accuracy over the classes that occur, each with the same weight."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    own = logarithms[np.arange(len(targets)), targets]
    right = logits.argmax(axis=1) == targets
    present = np.unique(targets)
    return HeldOutScore(
        loss=float(np.mean([-own[targets == label].mean() for label in present])),
        accuracy=float(np.mean([right[targets == label].mean() for label in present])),
    )


def _whole_backbone(labels: tuple[str, ...], base: Recipe, seed: int) -> Network:
    """The backbone as one frozen trunk with nothing on top but the head."""
    import keras

    with devices().strategy.scope():
        parts = build_backbone(base.backbone, base.weights, split=base.fine_tune_from, seed=seed)
        picture = keras.Input((None, None, 1))
        trunk = keras.Model(picture, parts.top(parts.trunk(picture, training=False), training=False))
        last = keras.Input(trunk.output.shape[1:])
        top = keras.Model(last, keras.layers.Identity()(last))
        whole = Backbone(parts.name, trunk, top, parts.value_range, parts.stride, parts.weights_origin)
        return build_network(whole, labels)


def _bounded(network: Network, base: Recipe, crops: int, strengths: int) -> tuple[int, int]:
    """How many views of how many crops, so that all strengths together keep to the bound."""
    cells = math.ceil(base.augmentation.window_px / network.backbone.stride) ** 2
    one_view = cells * int(network.trunk.output.shape[-1]) * np.dtype(np.float16).itemsize
    affordable = max(1, FEATURE_BYTES // (one_view * strengths))
    views = int(min(VIEWS, base.views, max(1, affordable // max(1, crops))))
    return views, int(affordable // views)


def _ids(crops: Sequence[Crop]) -> str:
    return _short("".join(crop.crop_id for crop in crops))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
