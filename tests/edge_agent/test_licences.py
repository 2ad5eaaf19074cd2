from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from small_wheels import small_wheel

from edge_agent.packing.licences import VENDORED, Part, licences_text, part_of_page, part_of_wheel
from edge_agent.packing.parts_here import parts_here
from edge_agent.packing.sbom import sbom_json

if TYPE_CHECKING:
    from pathlib import Path

CLASSIFIED = (
    "Classifier: License :: OSI Approved :: BSD License\nClassifier: License :: OSI Approved :: MIT License"
)


@pytest.mark.parametrize(
    ("metadata", "licence", "is_copyleft", "is_expression"),
    [
        pytest.param("License-Expression: MIT", "MIT", False, True, id="an expression"),
        pytest.param(
            "License-Expression: Apache-2.0 OR BSD-3-Clause",
            "Apache-2.0 OR BSD-3-Clause",
            False,
            True,
            id="a choice",
        ),
        pytest.param("License: GPLv3+, MIT", "GPLv3+, MIT", True, False, id="ncempy's own words"),
        pytest.param("License-Expression: LGPL-2.1-only", "LGPL-2.1-only", True, True, id="lesser GPL"),
        pytest.param(CLASSIFIED, "BSD License / MIT License", False, False, id="classifiers alone"),
        pytest.param(f"License: {90 * 'x'}\n{CLASSIFIED}", "BSD License / MIT License", False, False, id="a text"),
        pytest.param("Summary: nothing said", "not stated", False, False, id="nothing"),
    ],
)  # fmt: skip
def test_a_wheel_says_its_licence(
    tmp_path: Path, metadata: str, licence: str, is_copyleft: bool, is_expression: bool
) -> None:
    file = small_wheel(
        tmp_path, "alpha", licence=metadata, texts=("licenses/LICENSE", "licenses/sub/COPYING")
    )

    part = part_of_wheel(tmp_path / file.file, f"wheels/{file.file}")

    assert (part.licence, part.is_copyleft, part.is_expression) == (licence, is_copyleft, is_expression)
    assert {text.name: text.content for text in part.texts} == {
        "LICENSE": b"The licence of alpha, licenses/LICENSE.\n",
        "sub_COPYING": b"The licence of alpha, licenses/sub/COPYING.\n",
    }
    assert part.sha256 == file.sha256


def test_the_list_says_where_each_text_and_each_source_is(tmp_path: Path) -> None:
    wheels = (("ncempy", "License: GPLv3+"), ("rich", "License-Expression: MIT"))
    files = [small_wheel(tmp_path, name, licence=licence) for name, licence in wheels]
    parts = [part_of_wheel(tmp_path / file.file, f"wheels/{file.file}") for file in files]

    lines = licences_text(parts, ["ncempy-1.0.tar.gz"]).splitlines()

    assert "| ncempy | 1.0 | GPLv3+ | licences/ncempy-1.0/LICENSE | sources/ncempy-1.0.tar.gz |" in lines
    assert "| rich | 1.0 | MIT | licences/rich-1.0/LICENSE | not asked for |" in lines
    assert any(
        line.startswith("Under such a licence here: ncempy 1.0. Their complete source") for line in lines
    )


def test_what_the_page_is_made_with_is_listed_with_its_licence() -> None:
    part = part_of_page("wheels/own.whl, edge_agent/page/static/vendor/")

    assert {file.name for file in VENDORED.iterdir()} == {
        "uPlot.iife.min.js",
        "uPlot.min.css",
        "uPlot-LICENSE.txt",
    }
    assert f"(v{part.version})".encode() in (VENDORED / "uPlot.iife.min.js").read_bytes()[:200]
    assert b"Copyright (c) 2022 Leon Sorokin" in part.texts[0].content
    line = f"| uplot | {part.version} | MIT | licences/uplot-{part.version}/LICENSE | not asked for |"
    assert line in licences_text([part], []).splitlines()


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        pytest.param(
            "uPlot.iife.min.js",
            "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
            id="script",
        ),
        pytest.param(
            "uPlot.min.css",
            "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
            id="style sheet",
        ),
    ],
)
def test_what_the_page_is_made_with_is_as_its_owner_published_it(name: str, sha256: str) -> None:
    """Of `npm pack uplot@1.6.32`."""
    assert hashlib.sha256((VENDORED / name).read_bytes()).hexdigest() == sha256


def test_this_installation_is_listed_whole() -> None:
    parts = parts_here()

    kinds = {part.name: part.kind for part in parts}
    assert kinds["ncempy"] == kinds["onnxruntime"] == "package"
    assert (kinds["particle-shape"], kinds["CPython"], kinds["uplot"]) == ("model", "python", "script")
    assert not {"scipy", "matplotlib", "tensorflow"} & set(kinds)
    assert [part.name for part in parts if part.licence == "not stated"] == []
    (model,) = (part for part in parts if part.kind == "model")
    assert b"EfficientNet-Lite0" in next(
        text.content for text in model.texts if text.name == "THIRD_PARTY.md"
    )


def test_the_bill_of_materials_is_cyclonedx() -> None:
    document = sbom_json(parts_here())

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document) is None
    bill = json.loads(document)
    assert bill["metadata"]["component"]["name"] == "scopewatch"
    names = {component["name"]: component for component in bill["components"]}
    assert names["ncempy"]["purl"].startswith("pkg:pypi/ncempy@")
    assert names["particle-shape"]["type"] == "machine-learning-model"
    assert names["uplot"]["purl"] == "pkg:npm/uplot@1.6.32"
    known = {component["bom-ref"] for component in bill["components"]} | {
        bill["metadata"]["component"]["bom-ref"]
    }
    for entry in bill["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= known
    onnxruntime = next(entry for entry in bill["dependencies"] if "/onnxruntime@" in entry["ref"])
    assert [one for one in onnxruntime["dependsOn"] if "/numpy@" in one]


def test_equal_parts_give_an_equal_bill_and_other_parts_another_number() -> None:
    one, other = (Part("alpha", version, "package", "MIT", ()) for version in ("1.0", "1.1"))

    assert sbom_json([one]) == sbom_json([one])
    assert json.loads(sbom_json([one]))["serialNumber"] != json.loads(sbom_json([other]))["serialNumber"]
