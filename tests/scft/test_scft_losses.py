"""The losses against their formulas, and GradCache against the plain batch."""

import math

import pytest
import torch
from encode_models import make_model

pytest.importorskip("peft")
pytest.importorskip("datasets")

from recbole_llmemb.core.errors import UserError  # noqa: E402
from recbole_llmemb.encode.encoder import load_pipeline  # noqa: E402
from recbole_llmemb.encode.source import find_encoder  # noqa: E402
from recbole_llmemb.scft.settings import ScftSettings  # noqa: E402
from recbole_llmemb.scft.trainer import (  # noqa: E402
    FORMS,
    CachedViewLoss,
    LengthSortedCollator,  # noqa: E402
    ViewLoss,
)
from recbole_llmemb.scft.training import add_lora  # noqa: E402

WORDS = ["red", "blue", "soap", "gel", "one", "two", "movie", "beauty"]


def soft(x, y, tau):
    """The authors' formula, entry by entry."""
    n = len(x)
    targets, total = [], 0.0
    for i in range(n):
        row = [(x[i] @ x[j] + y[i] @ y[j]) / 2 * tau for j in range(n)]
        z = sum(math.exp(value) for value in row)
        targets.append([math.exp(value) / z for value in row])
    for i in range(n):
        rows = [x[i] @ y[j] / tau for j in range(n)]
        columns = [x[j] @ y[i] / tau for j in range(n)]
        for j in range(n):
            total -= targets[i][j] * (rows[j] - math.log(sum(map(math.exp, rows))))
            total -= targets[j][i] * (columns[j] - math.log(sum(map(math.exp, columns))))
    return total / (2 * n)


def infonce(x, y, tau):
    n, total = len(x), 0.0
    for i in range(n):
        rows = [x[i] @ y[j] / tau for j in range(n)]
        columns = [x[j] @ y[i] / tau for j in range(n)]
        total += math.log(sum(map(math.exp, rows))) - rows[i]
        total += math.log(sum(map(math.exp, columns))) - columns[i]
    return total / (2 * n)


@pytest.mark.parametrize(("form", "naive"), [("soft", soft), ("infonce", infonce)])
@pytest.mark.parametrize("tau", [3.0, 0.7])
def test_against_the_formula(form, naive, tau):
    x, y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = FORMS[form](tau)(x, y)
    assert got.item() == pytest.approx(naive(x, y, tau).item(), rel=1e-9)
    # The temperature is learned: its gradient is the formula's slope.
    learned = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    FORMS[form](learned)(x, y).backward()
    slope = (naive(x, y, tau + 1e-5) - naive(x, y, tau - 1e-5)) / 2e-5
    assert learned.grad.item() == pytest.approx(slope.item(), rel=1e-5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    source = find_encoder(make_model(tmp_path_factory.mktemp("m") / "bert", "bert"))
    model = load_pipeline(source)
    torch.manual_seed(0)
    add_lora(model, ScftSettings(scft_lora_rank=2, scft_lora_alpha=4, scft_lora_dropout=0.0))
    with torch.no_grad():  # B is zero at first, and so would be most gradients
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.2)
    return model.eval()  # no dropout


@pytest.fixture(scope="module")
def rows():
    return [
        {"view_a": " ".join(WORDS[i % 3 :][: i % 5 + 1]), "view_b": " ".join(WORDS[i % 4 : 4 + i])}
        for i in range(11)
    ]


def gradients(loss, collator, rows, scale=1.0):
    batch = collator(rows)
    order = batch.pop("label")
    numbers = sorted({int(key.partition("_")[0][4:]) for key in batch})
    parts = [
        {k.removeprefix(f"part{n}_"): v for k, v in batch.items() if k.startswith(f"part{n}_")}
        for n in numbers
    ]
    loss.zero_grad()
    value = loss(parts, order)
    (value * scale).backward()
    found = {name: p.grad.clone() for name, p in loss.named_parameters() if p.requires_grad}
    assert found and all(bool(g.abs().sum() > 0) for g in found.values())
    return len(parts), value.item(), found


@pytest.mark.parametrize("form", ["soft", "infonce"])
def test_cached_gradients_are_those_of_the_large_batch(model, rows, form):
    plain = ViewLoss(model, form, 3.0)
    one, value, wanted = gradients(
        plain, LengthSortedCollator(model.preprocess, None), rows, scale=0.5
    )
    many, cached_value, got = gradients(
        CachedViewLoss(model, form, 3.0), LengthSortedCollator(model.preprocess, 4), rows, scale=0.5
    )
    assert (one, many) == (1, 6)
    assert cached_value == pytest.approx(value, rel=1e-5)
    assert got.keys() == wanted.keys() and "form.temperature" in got
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_order_of_parts_does_not_matter(model, rows):
    """X and Y are the views in the order of the items, however the batch was cut."""
    loss = ViewLoss(model, "infonce", 3.0)
    encode = lambda view: model.encode([row[view] for row in rows], convert_to_tensor=True)  # noqa: E731
    wanted = FORMS["infonce"](3.0)(encode("view_a"), encode("view_b")).item()
    for size in (None, 3, 22):
        assert gradients(loss, LengthSortedCollator(model.preprocess, size), rows)[
            1
        ] == pytest.approx(wanted, rel=1e-4)
    assert loss(*_features(model, rows)).requires_grad
    with torch.no_grad():
        assert CachedViewLoss(model, "infonce")(*_features(model, rows)).item() == pytest.approx(
            wanted, rel=1e-4
        )


def _features(model, rows):
    batch = LengthSortedCollator(model.preprocess, None)(rows)
    order = batch.pop("label")
    return [{key.removeprefix("part0_"): value for key, value in batch.items()}], order


def test_half_precision_embeddings_are_compared_in_float32(model):
    loss = ViewLoss(model, "soft", 3.0)
    vectors = torch.randn(8, 2000, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got = loss.compare(vectors, torch.arange(8))
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(loss.compare(vectors.float(), torch.arange(8)).item())


def test_parts_are_cut_by_tokens_and_padded_no_more_than_needed(model, rows):
    batch = LengthSortedCollator(model.preprocess, 6)(rows)
    widths, taken = [], 0
    for number in range(4):
        mask = batch[f"part{number}_attention_mask"]
        assert mask.shape == batch[f"part{number}_input_ids"].shape
        assert mask.any(0).all()  # no column of padding only
        widths.append(mask.shape[1])
        taken += len(mask)
    assert taken == 22 and widths == sorted(widths, reverse=True) and widths[0] > widths[-1]
    texts = [row["view_a"] for row in rows] + [row["view_b"] for row in rows]
    laid = [ids for n in range(4) for ids in batch[f"part{n}_input_ids"]]
    for text, place in zip(texts, batch["label"].tolist()):
        assert model.tokenizer.decode(laid[place], skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("key", "value"),
    [("scft_learning_rate", 0), ("scft_lora_alpha", 0), ("scft_lora_dropout", 1)],
)
def test_settings_under_which_nothing_is_learned(key, value):
    with pytest.raises(UserError) as caught:
        ScftSettings.of({key: value})
    assert caught.value.key == key
