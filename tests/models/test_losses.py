"""Each loss against its formula, written out element by element."""

import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole.model.loss import BPRLoss  # isort: skip
from recbole_llmemb.models import losses  # isort: skip


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def doubles(*tensors):
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def assert_same(ours, naive, ours_inputs, naive_inputs, rtol=1e-5):
    """Same value, and same gradient of every input."""
    assert torch.allclose(ours.double(), naive, rtol=rtol, atol=1e-6)
    found = torch.autograd.grad(ours, ours_inputs)
    expected = torch.autograd.grad(naive, naive_inputs)
    for one, other in zip(found, expected):
        assert one.shape == other.shape
        assert torch.allclose(one.double(), other, rtol=1e-4, atol=1e-6)


def naive_cross_entropy(states, items, targets, bias):
    """−log softmax over items 1 … n−1, one position at a time."""
    total = 0
    for state, target in zip(states, targets.tolist()):
        scores = [(state * item).sum() for item in items]
        if bias is not None:
            scores = [score + bias[i] for i, score in enumerate(scores)]
        total = total - (scores[target] - torch.stack(scores[1:]).logsumexp(0))
    return total / len(states)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("positions", "chunk"), [(5, None), (40, None), (40, 1)], ids=["plain", "fused", "chunks"]
)
def test_cross_entropy(positions, chunk, biased, monkeypatch):
    if chunk:  # several chunks of 16 positions, the last one smaller
        monkeypatch.setattr(losses, "_CHUNK", (chunk, chunk))
    states, items = draw(positions, 8), draw(30, 8, seed=1)
    bias = draw(30, seed=2) if biased else None
    targets = torch.arange(positions) % 29 + 1
    inputs = [one.requires_grad_() for one in (states, items, bias) if one is not None]
    wide = doubles(*inputs)
    ours = losses.item_cross_entropy(states, items, targets, bias)
    naive = naive_cross_entropy(wide[0], wide[1], targets, wide[2] if biased else None)
    assert_same(ours, naive, inputs, wide)
    # Padding is no candidate: it neither counts nor learns.
    loss = losses.item_cross_entropy(states, items, targets)
    assert not torch.autograd.grad(loss, items)[0][0].any()


def test_cross_entropy_takes_the_chunked_way_from_d_positions_on(monkeypatch):
    if losses.LinearCrossEntropyOptions is None:
        pytest.skip("this PyTorch has no linear_cross_entropy")
    calls = []
    original = torch.nn.functional.linear_cross_entropy
    monkeypatch.setattr(
        torch.nn.functional,
        "linear_cross_entropy",
        lambda *args, **kwargs: calls.append(len(args[0])) or original(*args, **kwargs),
    )
    for n in (7, 8, 20):
        losses.item_cross_entropy(draw(n, 8), draw(30, 8), torch.ones(n, dtype=torch.long))
    assert calls == [8, 20]
    with torch.autocast("cpu", torch.bfloat16):
        value = losses.item_cross_entropy(draw(20, 8), draw(30, 8), torch.ones(20).long())
    assert len(calls) == 2 and value.isfinite()


def test_cross_entropy_without_the_chunked_way(monkeypatch):
    """An older PyTorch gives the same."""
    states, items, targets = draw(40, 8), draw(30, 8, seed=1), torch.arange(40) % 29 + 1
    here = losses.item_cross_entropy(states, items, targets)
    monkeypatch.setattr(losses, "LinearCrossEntropyOptions", None)
    assert torch.allclose(here, losses.item_cross_entropy(states, items, targets), rtol=1e-5)


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


@pytest.mark.parametrize("k", [None, 1, 3])
def test_pairwise_losses(k):
    positive = draw(6).requires_grad_()
    negative = (draw(6, seed=1) if k is None else draw(6, k, seed=1)).requires_grad_()
    p, n = doubles(positive, negative)
    pairs = [(p[i], n[i] if k is None else n[i, j]) for i in range(6) for j in range(k or 1)]
    bpr = -sum(torch.log(sigmoid(a - b)) for a, b in pairs) / len(pairs)
    assert_same(losses.bpr_loss(positive, negative), bpr, [positive, negative], [p, n])
    bce = -sum(torch.log(sigmoid(one)) for one in p) / len(p)
    bce = bce - sum(torch.log(1 - sigmoid(one)) for one in n.view(-1)) / n.numel()
    assert_same(losses.bce_loss(positive, negative), bce, [positive, negative], [p, n])
    if k is None:
        stock = BPRLoss()(positive, negative)
        assert torch.allclose(losses.bpr_loss(positive, negative), stock)


def test_pairwise_losses_stay_finite():
    for a, b in ((200.0, -200.0), (-200.0, 200.0)):
        a, b = torch.tensor([a], requires_grad=True), torch.tensor([b], requires_grad=True)
        for loss in (losses.bpr_loss, losses.bce_loss):
            value = loss(a, b)
            value.backward()
            assert value.isfinite() and a.grad.isfinite().all() and b.grad.isfinite().all()


def naive_alignment(x, y, tau):
    """The mean of cross-entropy by rows and by columns against soft targets (RAT)."""
    k = len(x)
    logit = [[(x[i] * y[j]).sum() / tau for j in range(k)] for i in range(k)]
    alike = [
        [((x[i] * x[j]).sum() + (y[i] * y[j]).sum()) / 2 * tau for j in range(k)] for i in range(k)
    ]
    target = []
    for i in range(k):
        weights = [torch.exp(value) for value in alike[i]]
        target.append([weight / sum(weights) for weight in weights])
    rows = columns = 0
    for i in range(k):
        by_row = torch.log(sum(torch.exp(logit[i][j]) for j in range(k)))
        by_column = torch.log(sum(torch.exp(logit[j][i]) for j in range(k)))
        for j in range(k):
            rows = rows - target[i][j] * (logit[i][j] - by_row)
            columns = columns - target[j][i] * (logit[j][i] - by_column)
    return (rows / k + columns / k) / 2


@pytest.mark.parametrize("tau", [2.0, 0.5, 3.0])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_alignment(k, tau):
    teacher, adapted = draw(k, 5), draw(k, 5, seed=1)
    teacher, adapted = teacher.requires_grad_(), adapted.requires_grad_()
    x, y = doubles(teacher, adapted)
    ours = losses.AlignmentLoss(tau)(teacher, adapted)
    assert_same(ours, naive_alignment(x, y, tau), [teacher, adapted], [x, y])


def test_alignment_prefers_items_in_their_places():
    teacher = draw(8, 4)
    loss = losses.AlignmentLoss(2.0)
    assert loss(teacher, teacher) < loss(teacher, teacher.flip(0))


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_cross_entropy_of_more_logits_than_fit(monkeypatch, padding, biased):
    """In parts, whose logits are never there together; as without torch's own chunked form."""
    monkeypatch.setattr(losses, "LinearCrossEntropyOptions", None)
    states, items, bias = draw(7, 5), draw(20, 5, seed=1), draw(20, seed=2) if biased else None
    targets = torch.tensor([3, 19, 1, 1, 8, 2, 11])
    inputs = [t.requires_grad_() for t in (states, items, bias) if t is not None]
    exact = doubles(*inputs)
    whole = losses.item_cross_entropy(*exact[:2], targets, *exact[2:], padding=padding)
    monkeypatch.setattr(losses, "_MOST_LOGITS", 45)
    rows, linear = [], torch.nn.functional.linear
    monkeypatch.setattr(losses.F, "linear", lambda x, *a: rows.append(len(x)) or linear(x, *a))
    parts = losses.item_cross_entropy(states, items, targets, bias, padding)
    assert_same(parts, whole, inputs, exact)
    assert rows == [2, 2, 2, 1, 1, 2, 2, 2]  # on the way there and on the way back
