"""Results that a session's clients got, compared with a model that takes the same steps in this process."""

from __future__ import annotations

import threading
from dataclasses import replace

import optserve
from chaos.model import Arrays, Model
from optserve.parameters import Parameters
from optserve.v1.session_pb2 import DurabilityMode, SessionSpec


class Ledger:
    """One session as its clients see it.

    Args:
        name: the session's name.
        values: its parameters at first.
        spec: its specification.

    Attributes:
        wrong: what differed from the model, for people.
        steps: steps followed.
        compared: how often parameters of a step were compared with the model's, bit for bit.
    """

    def __init__(self, name: str, values: Arrays, spec: SessionSpec) -> None:
        self.name, self.values, self.spec = name, values, spec
        self.wrong: list[str] = []
        self.steps = 0
        self.compared = 0
        self._model = Model(values, spec)
        self._answers: dict[int, tuple[Arrays, optserve.StepResult]] = {}
        self._pulled: dict[int, list[Parameters]] = {}
        self._lock = threading.Lock()

    def note(self, gradient: Arrays, result: optserve.StepResult) -> None:
        """Takes down an answer. The model follows as soon as all earlier steps are known."""
        with self._lock:
            if result.step <= self._model.step_number or result.step in self._answers:
                self._complain(f"step {result.step} was answered to two gradients")
                return
            self._answers[result.step] = (gradient, result)
            if result.parameters:
                # A repeated step comes with what the parameters are by then.
                self._pulled.setdefault(result.parameters.step, []).append(result.parameters)
            while self._model.step_number + 1 in self._answers:
                self._follow(self._model.step_number + 1)

    def close(self, exported: bytes) -> None:
        """Compares the session's whole state, as a server has sent it, when all is answered."""
        with self._lock:
            if self._answers or self._pulled:
                self._complain(f"a step is missing: {self._model.step_number + 1}")
                return
            try:
                self._model.check(exported)
            except AssertionError as error:
                self._complain(f"at the end: {error}")
            self.compared += 1

    def _follow(self, step: int) -> None:
        gradient, result = self._answers.pop(step)
        taken = optserve.StepResult.from_message(self._model.step(gradient), Parameters(), result.worker)
        durable = step if self.spec.durability.mode == DurabilityMode.DURABILITY_MODE_JOURNAL else 0
        expected = replace(taken, durable_step=durable, replayed=result.replayed, sequence=result.sequence)
        told = replace(result, parameters=Parameters())
        if told != expected:
            self._complain(f"answered {told}, not {expected}")
        self.steps += 1
        if step in self._pulled:
            self._compare(step, self._pulled.pop(step))

    def _compare(self, step: int, pulled: list[Parameters]) -> None:
        values = self._model.session.read_values()
        for number, tensor in enumerate(values.tensors):
            name, expected = tensor.entry.name, values.array(number).tobytes()
            for parameters in pulled:
                if parameters[name].tobytes() != expected:
                    self._complain(f"{name} differs at step {step}")
        self.compared += len(pulled)

    def _complain(self, text: str) -> None:
        self.wrong.append(f"{self.name}: {text}")
