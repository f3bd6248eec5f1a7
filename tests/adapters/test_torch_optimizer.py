"""`optserve.torch.RemoteOptimizer` has the properties that PyTorch's own tests ask of an optimizer."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import optserve
from optserve import optimizers as rules
from optserve.torch import RemoteOptimizer

pytestmark = pytest.mark.filterwarnings("default")

Single = torch.optim
RULES = {
    "SGD": (rules.SGD(learning_rate=0.05), lambda p, **k: Single.SGD(p, lr=0.05, **k)),
    "momentum": (
        rules.Momentum(learning_rate=0.05),
        lambda p, **k: Single.SGD(p, lr=0.05, momentum=0.9, **k),
    ),
    "dampening": (
        rules.Momentum(learning_rate=0.05, dampening=0.5),
        lambda p, **k: Single.SGD(p, lr=0.05, momentum=0.9, dampening=0.5, **k),
    ),
    "Nesterov": (
        rules.Nesterov(learning_rate=0.05),
        lambda p, **k: Single.SGD(p, lr=0.05, momentum=0.9, nesterov=True, **k),
    ),
    "Adagrad": (
        rules.Adagrad(learning_rate=0.05, learning_rate_decay=0.1),
        lambda p, **k: Single.Adagrad(p, lr=0.05, lr_decay=0.1, **k),
    ),
    "RMSprop": (
        rules.RMSprop(learning_rate=0.01, momentum=0.9, centered=True),
        lambda p, **k: Single.RMSprop(p, lr=0.01, momentum=0.9, centered=True, **k),
    ),
    "Adadelta": (rules.Adadelta(learning_rate=0.5), lambda p, **k: Single.Adadelta(p, lr=0.5, **k)),
    "Adam": (rules.Adam(learning_rate=0.01), lambda p, **k: Single.Adam(p, lr=0.01, **k)),
    "AMSGrad": (rules.AMSGrad(learning_rate=0.01), lambda p, **k: Single.Adam(p, lr=0.01, amsgrad=True, **k)),
    "AdamW": (rules.AdamW(learning_rate=0.01), lambda p, **k: Single.AdamW(p, lr=0.01, **k)),
    "Adamax": (rules.Adamax(learning_rate=0.01), lambda p, **k: Single.Adamax(p, lr=0.01, **k)),
    "NAdam": (rules.NAdam(learning_rate=0.01), lambda p, **k: Single.NAdam(p, lr=0.01, **k)),
    "RAdam": (rules.RAdam(learning_rate=0.01), lambda p, **k: Single.RAdam(p, lr=0.01, **k)),
    "Rprop": (rules.Rprop(learning_rate=0.01), lambda p, **k: Single.Rprop(p, lr=0.01, **k)),
    "Adafactor": (
        rules.Adafactor(learning_rate=0.05, epsilon2=0.01),
        lambda p, **k: Single.Adafactor(p, lr=0.05, eps=(None, 0.01), **k),
    ),
}
EXACT = {"Rprop"}
"""Rules whose kernels in PyTorch round as the server's: the others fuse a product with a sum."""

NEAR = {torch.float32: 2e-6, torch.float64: 2e-9}
"""Differences that remain after 20 steps. PyTorch keeps NAdam's product in float32."""


def network(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
    return torch.nn.Sequential(*layers).to(dtype)


def assert_near(found, expected, tolerance=None) -> None:
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=NEAR[a.dtype] if tolerance is None else tolerance)


def backward(model, step: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Gradients of a loss on the batch of a step."""
    generator = torch.Generator().manual_seed(step)
    kind = next(model.parameters()).dtype
    x = torch.randn(16, 6, generator=generator).to(kind)
    y = torch.randint(0, 3, (16,), generator=generator)
    loss = torch.nn.functional.cross_entropy(model(x), y)
    (loss * scale).backward()
    return loss


def train(model, optimizer, steps=range(20), after=lambda: None) -> None:
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        after()


def same_gradients(models, step: int) -> None:
    """Gives every model the same random gradients."""
    generator = torch.Generator().manual_seed(step)
    for parameters in zip(*(model.parameters() for model in models), strict=True):
        gradient = torch.randn(parameters[0].shape, generator=generator)
        for parameter in parameters:
            parameter.grad = gradient.to(parameter.dtype)


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_each_rule_computes_what_torch_computes(client, rule, dtype):
    model, local = network(dtype), network(dtype)
    own, theirs = RULES[rule]
    optimizer = RemoteOptimizer(model.parameters(), own, server=client)
    expected = theirs(local.parameters())
    for step in range(20):
        same_gradients([model, local], step)
        optimizer.step()
        expected.step()
    assert_near(model, local, 0 if rule in EXACT else None)
    optimizer.session.delete()


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"Rprop"}))  # which has no weight decay
def test_weight_decay_is_that_of_torch(client, rule):
    model, local = network(torch.float64), network(torch.float64)
    own, theirs = RULES[rule]
    optimizer = RemoteOptimizer(model.parameters(), own, server=client, weight_decay=0.1)
    train(model, optimizer)
    train(local, theirs(local.parameters(), weight_decay=0.1))
    assert_near(model, local)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"Rprop"}))
def test_maximize_turns_the_gradient(client, rule):
    model, local = network(torch.float64), network(torch.float64)
    own, theirs = RULES[rule]
    train(model, RemoteOptimizer(model.parameters(), own, server=client, maximize=True))
    train(local, theirs(local.parameters(), maximize=True))
    assert_near(model, local)


@pytest.mark.parametrize("rule", RULES)
def test_groups_have_the_keys_and_defaults_of_torch(address, rule):
    own, theirs = RULES[rule]
    model = network()
    optimizer = RemoteOptimizer(model.parameters(), own, server=address)
    expected = theirs(model.parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.defaults == expected.defaults
    assert optimizer.param_groups[0].keys() == expected.param_groups[0].keys()
    assert str(optimizer.param_groups[0]["lr"]) in repr(optimizer)


@pytest.mark.parametrize("argument", ["foreach", "fused"])
def test_foreach_and_fused_are_accepted(address, argument):
    model = network()
    optimizer = RemoteOptimizer(
        model.parameters(), rules.AdamW(learning_rate=0.01), server=address, **{argument: True}
    )
    assert optimizer.param_groups[0][argument] is True
    train(model, optimizer, range(2))


def test_a_step_without_gradients_is_none(client):
    model = network()
    optimizer = RemoteOptimizer(model.parameters(), rules.AdamW(learning_rate=0.1), server=client)
    before = copy.deepcopy(model)
    optimizer.step()
    assert_near(model, before, 0)
    assert optimizer.session.get().step == 0


def test_parameters_without_a_gradient_do_not_change_and_count_no_step(any_client):
    model, local = network(torch.float64), network(torch.float64)
    optimizer = RemoteOptimizer(model.parameters(), rules.Adam(learning_rate=0.01), server=any_client)
    expected = torch.optim.Adam(local.parameters(), lr=0.01)
    for step in range(12):
        same_gradients([model, local], step)
        for one in (model, local):
            if step % 3 == 0:
                one[0].weight.grad = None
            if step % 2 == 0:
                one[2].bias.grad = None
        optimizer.step()
        expected.step()
    assert_near(model, local, 1e-15)
    counts = [int(state["step"]) for state in optimizer.state_dict()["state"].values()]
    assert counts == [8, 12, 12, 6]


def test_zero_gradients_do_not_move_parameters_without_decay(client):
    model = network()
    before = copy.deepcopy(model)
    optimizer = RemoteOptimizer(model.parameters(), rules.Adam(learning_rate=0.1), server=client)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert_near(model, before, 0)
    assert optimizer.session.get().step == 1


def test_a_closure_is_called_once_with_gradients_enabled(client):
    model = network()
    optimizer = RemoteOptimizer(model.parameters(), rules.SGD(learning_rate=0.1), server=client)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        return backward(model)

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert calls == [True, True]
    assert second < first


def test_hooks_are_called_in_the_order_of_torch(address):
    model, order = network(), []
    optimizer = RemoteOptimizer(model.parameters(), rules.SGD(learning_rate=0.1), server=address)
    optimizer.register_step_pre_hook(lambda *_: order.append("before"))
    optimizer.register_step_post_hook(lambda *_: order.append("after"))
    optimizer.register_state_dict_pre_hook(lambda *_: order.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda *_: order.append("after saving"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: order.append("before loading"))
    optimizer.register_load_state_dict_post_hook(lambda *_: order.append("after loading"))
    backward(model)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    steps, saves, loads = order[:2], order[2:4], order[4:]
    assert steps == ["before", "after"]
    assert saves == ["before saving", "after saving"]
    assert loads == ["before loading", "after loading"]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(any_client, set_to_none):
    model, local = network(), network()
    optimizer = RemoteOptimizer(model.parameters(), rules.SGD(learning_rate=0.1), server=any_client)
    expected = torch.optim.SGD(local.parameters(), lr=0.1)
    for step in range(5):
        for one, rule in ((model, optimizer), (local, expected)):
            rule.zero_grad(set_to_none=set_to_none)
            assert all(
                (p.grad is None) if set_to_none or p.grad is None else not p.grad.any()
                for p in one.parameters()
            )
            backward(one, 2 * step)
            backward(one, 2 * step + 1)  # is added to the first
            rule.step()
    assert_near(model, local)


@pytest.mark.parametrize("change", ["norm", "value", "data", "numpy"])
def test_gradients_changed_after_backward_are_used_as_they_are(any_client, change):
    model, local = network(), network()
    optimizer = RemoteOptimizer(model.parameters(), rules.SGD(learning_rate=0.1), server=any_client)
    expected = torch.optim.SGD(local.parameters(), lr=0.1)
    for step in range(4):
        for one, rule in ((model, optimizer), (local, expected)):
            rule.zero_grad()
            backward(one, step)
            parameters = list(one.parameters())
            if change == "norm":
                torch.nn.utils.clip_grad_norm_(parameters, 0.01)
            elif change == "value":
                torch.nn.utils.clip_grad_value_(parameters, 0.001)
            for parameter in parameters:
                if change == "data":
                    parameter.grad.data.mul_(0.5)
                elif change == "numpy":
                    parameter.grad.numpy()[...] *= 0.25
            rule.step()
    assert_near(model, local)


def test_gradients_are_in_shared_memory_after_backward(address):
    with optserve.connect(address) as client:
        model = network()
        optimizer = RemoteOptimizer(model.named_parameters(), rules.SGD(learning_rate=0.1), server=client)
        train(model, optimizer, range(1))
        found = set()
        for step in range(3):
            optimizer.zero_grad()
            backward(model, step)
            found.add(tuple(p.grad.data_ptr() for p in model.parameters()))
            optimizer.step()
        assert len(found) == 1  # the same memory each time, without a copy by step


def test_parameters_come_back_into_the_memory_of_the_model(any_client):
    model = network()
    places = [p.data_ptr() for p in model.parameters()]
    train(model, RemoteOptimizer(model.parameters(), rules.SGD(learning_rate=0.1), server=any_client))
    assert [p.data_ptr() for p in model.parameters()] == places


def test_autograd_notices_that_parameters_were_changed(client):
    model = network()
    optimizer = RemoteOptimizer(model.parameters(), rules.SGD(learning_rate=0.1), server=client)
    backward(model)
    graph = model(torch.ones(2, 6)).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        graph.backward()


def test_names_of_parameters_are_those_of_the_session(client):
    model = network()
    optimizer = RemoteOptimizer(model.named_parameters(), rules.SGD(learning_rate=0.1), server=client)
    assert list(optimizer.session.layout) == [name for name, _ in model.named_parameters()]
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]


def test_groups_with_hyperparameters_of_their_own(client):
    model, local = network(torch.float64), network(torch.float64)

    def groups(one):
        own = {"params": one[2].parameters(), "lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.2}
        return [{"params": one[0].parameters()}, own]

    train(model, RemoteOptimizer(groups(model), rules.AdamW(learning_rate=0.01), server=client))
    train(local, torch.optim.AdamW(groups(local), lr=0.01))
    assert_near(model, local)


def test_hyperparameters_may_change_at_any_time(client):
    model, local = network(torch.float64), network(torch.float64)
    optimizer = RemoteOptimizer(model.parameters(), rules.Momentum(learning_rate=0.1), server=client)
    expected = torch.optim.SGD(local.parameters(), lr=0.1, momentum=0.9)
    changes = [{}, {"lr": 0.01}, {"momentum": 0.5}, {"weight_decay": 0.1}, {"weight_decay": 0, "lr": 0.0}]
    for step, change in enumerate([*changes, {"lr": 0.2}]):
        for one, rule in ((model, optimizer), (local, expected)):
            rule.param_groups[0].update(change)
            train(one, rule, range(step, step + 1))
    assert_near(model, local)


@pytest.mark.parametrize("stepped", [True, False])
def test_a_group_that_is_added_later(client, stepped):
    model, local = network(torch.float64), network(torch.float64)
    optimizer = RemoteOptimizer(model[0].parameters(), rules.AdamW(learning_rate=0.01), server=client)
    expected = torch.optim.AdamW(local[0].parameters(), lr=0.01)
    for one, rule in ((model, optimizer), (local, expected)):
        if stepped:
            train(one, rule, range(5))
        rule.add_param_group({"params": one[2].parameters(), "lr": 0.1})
        train(one, rule, range(5, 10))
    assert_near(model, local)


def test_one_parameter_belongs_to_one_group(address):
    model = network()
    groups = [{"params": [model[0].weight]}, {"params": [model[0].weight]}]
    with pytest.raises(ValueError, match="more than one parameter group"):
        RemoteOptimizer(groups, rules.SGD(learning_rate=0.1), server=address)


def test_the_learning_rate_may_be_a_tensor(client):
    model, local = network(), network()
    optimizer = RemoteOptimizer(model.parameters(), rules.Adam(learning_rate=0.5), server=client)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
    train(model, optimizer)
    train(local, torch.optim.Adam(local.parameters(), lr=0.01))
    assert_near(model, local)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"weight_decay": -0.5}])
def test_wrong_hyperparameters_are_rejected(address, wrong):
    rule = rules.Adam(learning_rate=wrong.pop("lr", 0.1))
    with pytest.raises(ValueError, match="nvalid"):
        RemoteOptimizer(network().parameters(), rule, server=address, **wrong)


def test_copies_are_rejected(address):
    optimizer = RemoteOptimizer(network().parameters(), rules.Adam(learning_rate=0.1), server=address)
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            copied(optimizer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_parameters_have_float32_on_the_server(any_client, dtype):
    model, master = network(dtype), network(dtype).float()
    optimizer = RemoteOptimizer(model.parameters(), rules.SGD(learning_rate=0.01), server=any_client)
    local = torch.optim.SGD(master.parameters(), lr=0.01)
    for step in range(30):
        same_gradients([model, master], step)
        for p, q in zip(model.parameters(), master.parameters(), strict=True):
            q.grad = p.grad.float()
        optimizer.step()
        local.step()
    for p, q, name in zip(model.parameters(), master.parameters(), optimizer.session.layout, strict=True):
        assert optimizer.session.layout[name].dtype == np.float32
        torch.testing.assert_close(p, q.to(dtype), rtol=0.01, atol=0.01)
        kept = torch.from_numpy(np.array(optimizer.session.pull()[name]))
        torch.testing.assert_close(kept, q, rtol=0, atol=1e-6)


def test_models_of_several_types(any_client):
    model, local = network(), network()
    for one in (model, local):
        one[2].to(torch.float64)
        one[2].register_forward_pre_hook(lambda _, given: (given[0].double(),))
    train(model, RemoteOptimizer(model.parameters(), rules.AdamW(learning_rate=0.01), server=any_client))
    train(local, torch.optim.AdamW(local.parameters(), lr=0.01))
    assert_near(model, local, 2e-6)


@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_complex_parameters(client, rule):
    own, theirs = RULES[rule]
    found, expected = (torch.nn.Parameter(torch.tensor([1 + 2j, -3 + 0.5j])) for _ in range(2))
    for parameter, optimizer in (
        (found, RemoteOptimizer([found], own, server=client)),
        (expected, theirs([expected])),
    ):
        for _ in range(10):
            optimizer.zero_grad()
            (parameter - 1j).abs().square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_parameters_that_are_no_contiguous_memory(any_client):
    found, expected = (torch.nn.Parameter(torch.arange(12.0).reshape(3, 4).t()) for _ in range(2))
    remote, local = (
        RemoteOptimizer([found], rules.Adam(learning_rate=0.1), server=any_client),
        torch.optim.Adam([expected], 0.1),
    )
    for parameter, optimizer in ((found, remote), (expected, local)):
        for _ in range(5):
            optimizer.zero_grad()
            (parameter * torch.arange(3.0)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_sparse_gradients_are_those_of_sparse_adam(any_client):
    tables = [torch.nn.Embedding(20, 4, sparse=True, dtype=torch.float64) for _ in range(2)]
    tables[1].load_state_dict(tables[0].state_dict())
    rule = rules.Adam(learning_rate=0.1, bias_correction="FOLDED")  # as in SparseAdam
    remote = RemoteOptimizer(tables[0].parameters(), rule, server=any_client)
    local = torch.optim.SparseAdam(tables[1].parameters(), lr=0.1)
    for step in range(10):
        rows = torch.randint(0, 20, (6,), generator=torch.Generator().manual_seed(step))
        for table, optimizer in zip(tables, (remote, local), strict=True):
            optimizer.zero_grad()
            table(rows).square().sum().backward()
            assert table.weight.grad.is_sparse
            optimizer.step()
    assert_near(tables[0], tables[1], 1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_state_moves_to_and_from_torch(client, rule):
    """Half of the steps there, half here; and the other way round."""
    own, theirs = RULES[rule]
    reference = network(torch.float64)
    whole = theirs(reference.parameters())
    train(reference, whole)
    for begins_remotely in (True, False):
        model = network(torch.float64)
        remote = RemoteOptimizer(model.parameters(), own, server=client)
        local = theirs(model.parameters())
        first, second = (remote, local) if begins_remotely else (local, remote)
        train(model, first, range(10))
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
        train(model, second, range(10, 20))
        assert_near(model, reference)
    found, expected = remote.state_dict(), whole.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == {n for n, state in expected["state"].items() if state}
    if rule != "Rprop":  # of which the server keeps the sign alone
        for number in found["state"]:
            state = expected["state"][number]
            assert found["state"][number].keys() == {k for k, v in state.items() if v is not None}
            for key, value in found["state"][number].items():
                torch.testing.assert_close(value, state[key], rtol=1e-6, atol=1e-9)


def test_adafactor_has_the_hyperparameters_and_state_of_torch(client):
    """Of tensors with three axes too, whose averages keep the first one."""
    options = {"beta2_decay": -0.7, "eps": (1e-3, 1e-2), "d": 1.5, "weight_decay": 0.1}
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 4, 5), (6, 2), (7,), ())]
    copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    remote = RemoteOptimizer(parameters, rules.Adafactor(learning_rate=0.1), server=client)
    remote.param_groups[0].update(options)
    local = torch.optim.Adafactor(copies, lr=0.1, **options)
    generator = torch.Generator().manual_seed(3)
    for _ in range(6):
        for p, q in zip(parameters, copies, strict=True):
            p.grad = q.grad = torch.randn(p.shape, generator=generator)
        remote.step()
        local.step()
    torch.testing.assert_close(parameters, copies, rtol=1e-5, atol=1e-6)
    found, expected = remote.state_dict(), local.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    for number, state in expected["state"].items():
        assert found["state"][number].keys() == state.keys()
        for key, value in state.items():
            assert found["state"][number][key].shape == value.shape
            torch.testing.assert_close(found["state"][number][key], value, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
def test_muon_has_the_hyperparameters_and_state_of_torch(client, adjust):
    """PyTorch iterates in bfloat16, so that the parameters of both are only near."""
    options = {"lr": 0.02, "momentum": 0.8, "nesterov": False, "ns_steps": 4, "adjust_lr_fn": adjust}
    saved = None
    for begins_remotely in (True, False):
        parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in ((6, 4), (3, 8))]
        remote = RemoteOptimizer(parameters, rules.Muon(), server=client)
        assert remote.defaults == torch.optim.Muon(parameters).defaults
        remote.param_groups[0].update(options)
        local = torch.optim.Muon(parameters, **options)
        first, second = (remote, local) if begins_remotely else (local, remote)
        generator = torch.Generator().manual_seed(3)
        for step in range(8):
            if step == 4:
                second.load_state_dict(first.state_dict())
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator)
            (first if step < 4 else second).step()
        state = second.state_dict()
        assert set(state["state"][0]) == {"momentum_buffer"}
        if saved is not None:
            assert state["param_groups"] == saved[1]["param_groups"]
            torch.testing.assert_close(state["state"], saved[1]["state"], rtol=1e-5, atol=1e-7)
            for p, q in zip(parameters, saved[0], strict=True):
                torch.testing.assert_close(p, q, rtol=0, atol=0.03)
        saved = parameters, state


def test_muon_has_the_state_of_adamw_for_what_is_no_matrix(client):
    vector, alone = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    matrix = torch.nn.Parameter(torch.eye(3))
    remote = RemoteOptimizer([matrix, vector], rules.Muon(learning_rate=0.1), server=client)
    local = torch.optim.AdamW([alone], lr=0.1, weight_decay=0.1)
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        matrix.grad = torch.eye(3)
        vector.grad = alone.grad = torch.randn(5, generator=generator)
        remote.step()
        local.step()
    torch.testing.assert_close(vector, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(remote.state_dict()["state"][1], local.state_dict()["state"][0])


def test_muons_iteration_has_one_set_of_coefficients(client):
    remote = RemoteOptimizer([torch.nn.Parameter(torch.eye(3))], rules.Muon(), server=client)
    remote.param_groups[0]["ns_coefficients"] = (2.0, -1.5, 0.5)
    with pytest.raises(ValueError, match="ns_coefficients must be"):
        remote.session  # noqa: B018 - opens it


def test_half_of_a_pair_of_hyperparameters_may_be_given(address):
    optimizer = RemoteOptimizer(network().parameters(), rules.Adam(beta1=0.8), server=address)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.999)


def test_a_state_that_is_loaded_takes_the_place_of_the_session(client):
    model = network()
    optimizer = RemoteOptimizer(
        model.parameters(),
        rules.AdamW(learning_rate=0.01),
        server=client,
        session_id="replaced",
        durability=optserve.Durability(mode="ephemeral"),
    )
    train(model, optimizer, range(5))
    saved = optimizer.state_dict()
    assert saved["optserve"] == {"session": "sessions/replaced", "step": 5}
    kept = copy.deepcopy(model)
    train(model, optimizer, range(5, 10))
    with pytest.raises(RuntimeError, match="step 5 of sessions/replaced, which is at step 10"):
        optimizer.load_state_dict(saved)
    del saved["optserve"]
    optimizer.load_state_dict(saved)
    model.load_state_dict(kept.state_dict())
    train(model, optimizer, range(5, 10))
    train(kept, local := torch.optim.AdamW(kept.parameters(), lr=0.01), range(0))
    local.load_state_dict(saved)
    train(kept, local, range(5, 10))
    assert_near(model, kept)
    assert optimizer.session.name == "sessions/replaced"
    assert optimizer.session.spec.durability.mode is optserve.DurabilityMode.EPHEMERAL
    assert optimizer.session.get().step == 10
    optimizer.session.delete()


def test_the_state_of_the_current_step_is_not_written_again(client):
    model = network()
    optimizer = RemoteOptimizer(model.parameters(), rules.Adam(learning_rate=0.01), server=client)
    train(model, optimizer, range(3))
    name = optimizer.session.name
    optimizer.load_state_dict(optimizer.state_dict())
    train(model, optimizer, range(3, 5))
    assert optimizer.session.name == name
    assert optimizer.session.get().step == 5


def test_a_session_is_resumed_by_another_process(client):
    model, whole = network(), network()
    train(
        whole, RemoteOptimizer(whole.parameters(), rules.Adam(learning_rate=0.01), server=client), range(10)
    )
    optimizer = RemoteOptimizer(
        model.parameters(), rules.Adam(learning_rate=0.01), server=client, session_id="resumed"
    )
    train(model, optimizer, range(5))
    saved = optimizer.state_dict()
    optimizer.close()
    other = network()
    resumed = RemoteOptimizer(
        other.parameters(), rules.Adam(learning_rate=0.01), server=client, session_id="resumed", resume=True
    )
    resumed.load_state_dict(saved)
    assert_near(other, model, 0)
    train(other, resumed, range(5, 10))
    assert_near(other, whole, 0)
    resumed.session.delete()


def test_another_client_of_the_session_is_noticed(client):
    model = network()
    optimizer = RemoteOptimizer(model.parameters(), rules.SGD(learning_rate=0.1), server=client)
    train(model, optimizer, range(2))
    other = client.session(optimizer.session.name)
    other.step({name: np.zeros(place.shape, np.float32) for name, place in other.layout.items()})
    with pytest.raises(optserve.errors.StepMismatch):
        train(model, optimizer, range(2, 3))


def test_parameters_that_were_changed_locally_are_sent(client):
    model, local = network(torch.float64), network(torch.float64)

    def constrain(one):
        with torch.no_grad():
            one[0].weight.clamp_(-0.1, 0.1)
        one[2].bias.data = torch.zeros(3, dtype=torch.float64)

    optimizer = RemoteOptimizer(model.parameters(), rules.Adam(learning_rate=0.01), server=client)
    train(model, optimizer, range(10), lambda: constrain(model))
    train(local, torch.optim.Adam(local.parameters(), lr=0.01), range(10), lambda: constrain(local))
    assert_near(model, local)


SCHEDULERS = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda step: step / 10),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda s, o: s.StepLR(o, 3),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda s, o: s.ConstantLR(o),
    "LinearLR": lambda s, o: s.LinearLR(o),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.9),
    "SequentialLR": lambda s, o: s.SequentialLR(o, [s.ConstantLR(o), s.ExponentialLR(o, 0.5)], [4]),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, 20),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 10),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler([s.ConstantLR(o), s.ExponentialLR(o, 0.9)]),
    "ReduceLROnPlateau": lambda s, o: s.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda s, o: s.CyclicLR(o, 0.001, 0.1, 4),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 0.1, 20),
}


def test_no_scheduler_is_left_out():
    kinds = vars(torch.optim.lr_scheduler).items()
    base = torch.optim.lr_scheduler.LRScheduler
    found = {name for name, kind in kinds if isinstance(kind, type) and issubclass(kind, base)}
    assert found - {"LRScheduler", "_LRScheduler"} == set(SCHEDULERS)


@pytest.mark.parametrize("rule", ["momentum", "AdamW"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_steer_the_session(client, name, rule):
    own, theirs = RULES[rule]
    model, local = network(torch.float64), network(torch.float64)
    optimizer = RemoteOptimizer(model.parameters(), own, server=client)
    for one, made in ((model, optimizer), (local, theirs(local.parameters()))):
        scheduler = SCHEDULERS[name](torch.optim.lr_scheduler, made)
        arguments = (1.0,) if name == "ReduceLROnPlateau" else ()
        train(one, made, after=lambda s=scheduler, a=arguments: s.step(*a))
    assert_near(model, local)


@pytest.mark.parametrize("unscale", [True, False])
def test_grad_scaler(any_client, unscale):
    model, local = network(), network()
    optimizer = RemoteOptimizer(model.parameters(), rules.AdamW(learning_rate=0.01), server=any_client)
    expected = torch.optim.AdamW(local.parameters(), lr=0.01)
    outcomes, scales = [], []
    for one, rule in ((model, optimizer), (local, expected)):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
        for step in range(12):
            rule.zero_grad()
            backward(one, step, float(scaler.scale(torch.ones(()))))
            if step in (3, 7):
                one[2].weight.grad[0, 0] = float("inf")
            if unscale:
                scaler.unscale_(rule)
                torch.nn.utils.clip_grad_norm_(one.parameters(), 0.5)
            scaler.step(rule)
            scaler.update()
            scales.append(scaler.get_scale())
            if rule is optimizer:
                outcomes.append(optimizer.last_result.outcome.name)
    assert scales[:12] == scales[12:]
    assert [step for step, outcome in enumerate(outcomes) if outcome == "SKIPPED"] == [3, 7]
    described = optimizer.session.get()
    assert (described.step, described.skipped) == (10, 2)
    assert_near(model, local)


def test_rules_that_torch_does_not_have(client):
    model = network()
    optimizer = RemoteOptimizer(model.parameters(), rules.Lion(learning_rate=0.01), server=client)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(backward(model).item())
        optimizer.step()
    assert losses[-1] < losses[0]
    assert set(optimizer.state_dict()["state"][0]) == {"step", "m"}
