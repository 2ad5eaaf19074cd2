"""A verified, evaluated bundle -> the folder of published models, where the agent finds it by name."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from edge_agent.classifier import Classifier
from edge_agent.model_bundle import MANIFEST, Bundle, open_bundle
from trainer.scoring.evaluation import EVALUATION, EvaluationError, read_evaluation


class PublishError(Exception):
    """A bundle is not fit to be published; the message says why."""


_REPOSITORY: Final = Path(__file__).resolve().parents[2]


def publish(bundle_path: Path, models: Path | None = None) -> Path:
    """Verify a bundle, replay its golden cases, and copy it to `models`/<name>-<version>.

    `models` is by default the folder of that name in the repository that this file lies in.

    Raises:
        BundleRefused: the bundle is not as its manifest says.
        PublishError: it was not evaluated, fails its golden replay, that version is published already, or no
            folder was given and this is an installation without a repository.

    """
    models = models if models is not None else _repository_models()
    bundle = open_bundle(bundle_path)
    _check_evaluated(bundle)
    replay = Classifier(bundle).replay_golden()
    if not replay.passed:
        raise PublishError(
            f"{bundle_path}: the golden replay is off by {max(replay.probabilities, replay.cam):.1e}, "
            f"more than {replay.tolerance:.0e}; export the run again on this machine"
        )
    target = models / f"{bundle.manifest.name}-{bundle.manifest.version}"
    if target.exists():
        raise PublishError(f"{target}: published already; export under another --version, or remove it first")
    models.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".publish-", dir=models))
    try:
        for name in (*bundle.manifest.sha256, MANIFEST):
            shutil.copyfile(bundle.path / name, draft / name)
        open_bundle(draft)
        draft.chmod(0o755)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _repository_models() -> Path:
    if not (_REPOSITORY / "pyproject.toml").is_file():
        raise PublishError("this installation has no repository around it; name the folder with --models")
    return _REPOSITORY / "models"


def _check_evaluated(bundle: Bundle) -> None:
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
