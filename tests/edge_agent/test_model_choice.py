"""Whose fault a failed start is, and which model answers then."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edge_agent.hosting.model_choice import ModelChoice, is_models_fault
from edge_agent.supervisor import ModelRefused, WorkerFailed


@dataclass(frozen=True)
class Model:
    model: str
    manifest_sha256: str | None = None
    note: str | None = None

    @property
    def title(self):
        return self.model.upper()


class Store:
    """Models in the order of their standing; `failed` takes one out."""

    def __init__(self, *names):
        self.models, self.marks, self.good = [Model(name) for name in names], [], []

    def chosen(self, asked):
        return self.models[0]

    def revision(self):
        return tuple(self.models)

    def worked(self, chosen):
        self.good.append(chosen.model)

    def failed(self, chosen, reason):
        self.marks.append((chosen.model, reason))
        self.models.remove(chosen)
        return self.models[0] if self.models else None


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        pytest.param(ModelRefused("/m: SHA-256 differs"), True, id="refused"),
        pytest.param(ModelRefused("/m: golden replay is out of tolerance"), True, id="does not compute"),
        pytest.param(
            ModelRefused("/m: cannot be read ([WinError 32] in use)"), False, id="held by a scanner"
        ),
        pytest.param(
            WorkerFailed("the worker did not start: the worker ended: killed by SIGSEGV"), True, id="crash"
        ),
        pytest.param(
            WorkerFailed("the worker did not start: the worker ended: exit code 1 (KeyError)"),
            True,
            id="error",
        ),
        pytest.param(
            WorkerFailed(
                "... exit code 1 (the model cannot be loaded: the worker needed more memory than ...)"
            ),
            False,
            id="no memory",
        ),
        pytest.param(
            WorkerFailed("the worker ended: killed by SIGKILL"), False, id="the system's OOM killer"
        ),
        pytest.param(
            WorkerFailed("the worker did not start: it took longer than 120 s and was ended"),
            False,
            id="busy PC",
        ),
        pytest.param(
            WorkerFailed("the worker did not start: [Errno 11] Resource temporarily unavailable"),
            False,
            id="no process",
        ),
        pytest.param(
            WorkerFailed("... exit code 1 (ImportError: DLL load failed)"), False, id="installed badly"
        ),
    ],
)
def test_whose_fault_it_is(error, verdict):
    assert is_models_fault(error) is verdict
    if isinstance(error, WorkerFailed):
        assert is_models_fault(str(error)) is verdict


def test_a_model_at_fault_is_marked_and_gives_way():
    store = Store("b", "a")
    choice = ModelChoice(store)
    chosen = choice.choose(None)
    assert choice.note is None

    other = choice.instead_of(chosen, ModelRefused("SHA-256 differs"))

    assert other == Model("a")
    assert store.marks == [("b", "SHA-256 differs")]
    assert choice.note == "A answers instead of B: SHA-256 differs"
    assert not choice.is_outdated()


def test_where_none_is_left_there_is_nothing_instead():
    choice = ModelChoice(Store("b"))
    assert choice.instead_of(choice.choose(None), ModelRefused("no")) is None
    assert choice.note is None


def test_a_shortage_marks_nobody_but_what_has_answered_before_answers_meanwhile():
    store = Store("a")
    choice = ModelChoice(store)
    first = choice.choose(None)
    choice.worked(first)
    store.models.insert(0, Model("b"))
    assert choice.is_outdated()
    second = choice.choose(None)

    other = choice.instead_of(second, WorkerFailed("the worker needed more memory"))

    assert (other, store.marks, store.good) == (first, [], ["a"])
    assert choice.note.startswith("A answers instead of B: ")


def test_a_shortage_at_the_first_start_leaves_nothing_to_go_on_with():
    choice = ModelChoice(Store("b", "a"))
    assert choice.instead_of(choice.choose(None), WorkerFailed("it took longer than 120 s")) is None


def test_another_choice_takes_the_note_away():
    store = Store("b", "a")
    choice = ModelChoice(store)
    choice.instead_of(choice.choose(None), ModelRefused("no"))
    store.models.insert(0, Model("c"))

    assert choice.is_outdated()
    assert (choice.choose(None), choice.note) == (Model("c"), None)


def test_what_the_store_itself_says_is_passed_on():
    store = Store("a")
    store.models[0] = Model("a", note="b was refused last week")
    choice = ModelChoice(store)
    choice.choose(None)
    assert choice.note == "b was refused last week"
