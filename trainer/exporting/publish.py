"""A verified, evaluated bundle -> the folder of published models, or a package for bioimage.io.

What is published is what was evaluated; only the model card changes, which is given the figures of the evaluation.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.classifier import Classifier
from edge_agent.model_bundle import MANIFEST, Bundle, open_bundle
from trainer.exporting.bioimageio import write_package
from trainer.exporting.bundle_writer import add_file
from trainer.exporting.front_matter import with_front_matter
from trainer.exporting.signing import sign_bundle
from trainer.scoring.evaluation import EVALUATION, EvaluationError, read_evaluation

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from trainer.exporting.bioimageio import Credits
    from trainer.scoring.evaluation import Evaluation


class PublishError(Exception):
    """A bundle is not fit to be published; the message says why."""


_REPOSITORY: Final = Path(__file__).resolve().parents[2]
_CARD: Final = "MODEL_CARD.md"


def publish(
    bundle_path: Path, models: Path | None = None, *, sign_with: Ed25519PrivateKey | None = None
) -> Path:
    """Verify a bundle, replay its golden cases, and copy it to `models`/<name>-<version>.

    `models` is by default the folder of that name in the repository that this file lies in. The card is told the
    figures, so that a signature of the bundle does not fit any more: `sign_with` puts a new one.

    Raises:
        BundleRefused: the bundle is not as its manifest says.
        PublishError: it was not evaluated, fails its golden replay, that version is published already, or no
            folder was given and this is an installation without a repository.

    """
    models = models if models is not None else _repository_models()
    bundle, evaluation = _fit(bundle_path)
    target = models / f"{bundle.manifest.name}-{bundle.manifest.version}"
    if target.exists():
        raise PublishError(f"{target}: published already; export under another --version, or remove it first")
    models.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".publish-", dir=models))
    try:
        for name in (*bundle.manifest.sha256, MANIFEST):
            shutil.copyfile(bundle.path / name, draft / name)
        _tell_figures(draft, bundle, evaluation)
        open_bundle(draft)
        if sign_with is not None:
            sign_bundle(draft, sign_with)
        draft.chmod(0o755)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def publish_package(bundle_path: Path, file: Path, credits_: Credits, *, seed: int = 0) -> Path:
    """Verify a bundle, replay its golden cases, and write it as a package for bioimage.io to the new ZIP `file`.

    Raises:
        BundleRefused: the bundle is not as its manifest says.
        FileExistsError: the file is there already.
        PackageError: the format cannot express this bundle.
        PublishError: it was not evaluated, or fails its golden replay.

    """
    bundle, evaluation = _fit(bundle_path)
    return write_package(bundle, evaluation.figures, evaluation.part, file, credits_, seed=seed)


def _fit(bundle_path: Path) -> tuple[Bundle, Evaluation]:
    """The bundle and its evaluation; PublishError where it is not fit to be published."""
    bundle = open_bundle(bundle_path)
    evaluation = _evaluated(bundle)
    replay = Classifier(bundle, without_map=bundle.manifest.tensors.cam is None).replay_golden()
    if not replay.passed:
        raise PublishError(
            f"{bundle_path}: the golden replay is off by {replay.worst:.1e}, "
            f"more than {replay.tolerance:.0e}; export the run again on this machine"
        )
    return bundle, evaluation


def _tell_figures(draft: Path, bundle: Bundle, evaluation: Evaluation) -> None:
    """Put the figures into the block on top of the model card, for whoever finds the model on a hub."""
    if _CARD in bundle.manifest.sha256:
        card = (draft / _CARD).read_text(encoding="utf-8")
        told = with_front_matter(card, bundle.manifest, evaluation.figures, evaluation.part)
        add_file(draft, _CARD, told.encode())


def _repository_models() -> Path:
    if not (_REPOSITORY / "pyproject.toml").is_file():
        raise PublishError("this installation has no repository around it; name the folder with --models")
    return _REPOSITORY / "models"


def _evaluated(bundle: Bundle) -> Evaluation:
    try:
        found = read_evaluation(bundle)
    except EvaluationError as error:
        raise PublishError(str(error)) from error
    network = bundle.manifest.network
    if network.members > 1 and found.part in network.trained_parts and found.cross_validation is None:
        raise PublishError(
            f"{bundle.path / EVALUATION}: scores the part {found.part}, which its {network.members} members have "
            "seen; evaluate another part, or folds with --cross-validation and their run folder"
        )
    return found
