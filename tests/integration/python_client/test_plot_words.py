"""What is to be drawn is read from words, by the classes written from the contract."""

from __future__ import annotations

import dataclasses
import math

import pytest

import optserve
from optserve import activations, optimizers, schedules
from optserve.activations import Activation
from optserve.enums import Annealing, BoundarySide, Convention, MomentumForm
from optserve.optimizers import Optimizer
from optserve.plotting.plot_items import Item, parse_items
from optserve.plotting.spec_parser import LONGEST_VALUE, WrongItem, parse_spec
from optserve.schedules import Schedule

READ = [
    (
        "exponential initial_learning_rate=1e-1 decay_steps=100 decay_rate=.5 staircase=true",
        schedules.Exponential(0.1, 100.0, 0.5, staircase=True),
    ),
    (
        "piecewise_constant boundaries=[100,200] values=1,0.5,0.25 boundary_side=after",
        schedules.PiecewiseConstant(
            boundaries=(100, 200), values=(1.0, 0.5, 0.25), boundary_side=BoundarySide.AFTER
        ),
    ),
    (
        "one_cycle max_learning_rate=1 total_steps=9 annealing=LINEAR convention=torch three_phase=no",
        schedules.OneCycle(
            1.0, 9, annealing=Annealing.LINEAR, convention=Convention.TORCH, three_phase=False
        ),
    ),
    (
        "warmup warmup_steps=5 schedule=cosine(initial_learning_rate=1,decay_steps=9,alpha=-0.5)",
        schedules.Warmup(schedules.Cosine(1.0, 9.0, alpha=-0.5), 5),
    ),
    (
        "join boundaries=7 schedules=[constant(value=2),legacy_decay(schedule=constant(value=1),decay=inf)]",
        schedules.Join(
            boundaries=(7,),
            schedules=(
                schedules.ConstantSchedule(2.0),
                schedules.LegacyDecay(schedules.ConstantSchedule(1.0), math.inf),
            ),
        ),
    ),
]


@pytest.mark.parametrize(("words", "spec"), READ)
def test_a_schedule_is_read(words, spec):
    assert [item.spec for item in parse_items(Schedule, words.split())] == [spec]


def test_spaces_within_a_word_are_harmless():
    words = ["warmup", "schedule=constant( value = 3 )", "warmup_steps= 4"]
    assert parse_items(Schedule, words)[0].spec == schedules.Warmup(schedules.ConstantSchedule(3.0), 4)


def test_several_names_each_have_the_fields_that_follow():
    items = parse_items(Optimizer, ["sgd", "momentum", "form=EMA", "momentum=0.5", "adam"])
    assert items == [
        Item("sgd", optimizers.SGD()),
        Item(
            "momentum(form=EMA, momentum=0.5)",
            optimizers.Momentum(form=MomentumForm.EMA, momentum=0.5),
        ),
        Item("adam", optimizers.Adam()),
    ]


@pytest.mark.parametrize("family", [Optimizer, Activation, Schedule])
def test_every_name_of_the_contract_is_known(family):
    for name, cls in family.CHOICES.items():
        required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        if required:
            with pytest.raises(WrongItem, match=f"{name} needs {', '.join(required)}"):
                parse_items(family, [name])
        else:
            assert parse_items(family, [name])[0].spec == cls()


def test_a_specification_that_is_no_choice_is_named_by_its_class():
    clipped = optserve.Gradient(l2=0.5, clip=optserve.ClipByValue(1.0))
    assert parse_spec(optserve.Gradient, "gradient(l2=0.5, clip=by_value(max_value=1))") == clipped
    group = optserve.ParameterGroup("head", tensors=("w", "b/1"), optimizer=optimizers.Lion())
    text = "ParameterGroup(name=head, tensors=[w, 'b/1'], optimizer=lion)"
    assert parse_spec(optserve.ParameterGroup, text) == group
    assert parse_spec(Optimizer, "lion") == optimizers.Lion()
    with pytest.raises(WrongItem, match=r"adam is not Gradient; write Gradient\(field=value"):
        parse_spec(optserve.Gradient, "adam(l2=1)")
    with pytest.raises(WrongItem, match=r"'3' is not the name of an Optimizer, or name\(field=value"):
        parse_spec(Optimizer, "3")


WRONG = [
    ("cosin", "schedule is 'cosin', but must be one of .*did you mean 'cosine'"),
    ("decay=1", "comes before the name"),
    ("constant valeu=1", "no field 'valeu'; did you mean value"),
    ("constant value=1 value=2", "given twice"),
    ("constant value=high", "value is 'high', but must be a number"),
    ("constant value=", "cannot read"),
    ("constant value=2**9", "constant.value takes a number"),
    ("constant value=__import__('os')", "constant.value takes a number"),
    (f"constant value={'(' * 2000}", "cannot read"),
    (f"constant value={'-' * 2000}1", "constant.value takes a number"),
    (f"constant value={'1' * (LONGEST_VALUE + 1)}", "more than"),
    ("step_decay initial_learning_rate=1 step_size=1.5", "step_size is 1.5, but must be a whole number"),
    (f"step_decay initial_learning_rate=1 step_size={2**63}", "step_size is .*64 bits"),
    (
        "exponential initial_learning_rate=1 decay_steps=1 decay_rate=1 staircase=maybe",
        "'maybe', but must be True or False",
    ),
    ("piecewise_constant boundary_side=left", "a BoundarySide: one of BEFORE, AFTER"),
    ("piecewise_constant boundaries=[1,x]", r"boundaries\[1\] is 'x', but must be a whole number"),
    (
        "warmup warmup_steps=1 schedule=cosine",
        "'cosine', which needs more: Cosine.initial_learning_rate=..., decay_steps",
    ),
    ("warmup warmup_steps=1 schedule=cosine(1,2)", "or name"),
    ("warmup warmup_steps=1 schedule=constant(**x)", r"no field '\*\*'"),
    ("warmup warmup_steps=1 schedule=[1]", "Warmup.schedule is .*must be a Schedule"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_read_is_refused_in_words(words, message):
    with pytest.raises(WrongItem, match=message):
        parse_items(Schedule, words.split())


def test_a_name_is_looked_for_in_its_own_family():
    with pytest.raises(WrongItem, match="activation is 'adam', but must be one of"):
        parse_items(Activation, ["adam"])
    assert parse_items(Activation, ["elu", "alpha=2"])[0].spec == activations.ELU(alpha=2.0)
