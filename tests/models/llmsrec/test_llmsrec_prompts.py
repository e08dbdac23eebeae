# ruff: noqa: F811 (fixtures come by name)
"""Prompts of LLM-SRec: their words, their tokens, their slots, and what is computed once."""

import copy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from llmsrec_fixtures import cf_model, llms, llmsrec  # noqa: F401
from transformers import AutoModel, AutoTokenizer

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.dataset import TimeScaling
from recbole_llmemb.models.llmsrec import prompts
from recbole_llmemb.models.llmsrec.item_inputs import TableForm, TextForm
from recbole_llmemb.models.llmsrec.llm import FrozenLLM, PrefixKVCache
from recbole_llmemb.models.llmsrec.prompts import PAD, fill, pad_codes, recent, slot

sys.path.insert(0, str(ROOT))
from benchmarks.llmsrec_reference import item_prompt, user_prompt  # noqa: E402

END = ". Based on this sequence of purchases , generate user representation token : [UserOut] </s>"
SLOTS = ("[UserOut]", "[HistoryEmb]", "[ItemOut]")
TITLES = ["", "red soap", "Blue gel", 'No. 7 "x"', "(é) 2014", "'s", "", ".5 & more", " a  b "]
DAY = 86_400


@pytest.fixture(scope="module")
def llm(llms):
    def load(kind):
        model = AutoModel.from_pretrained(llms[kind])
        return FrozenLLM(model, AutoTokenizer.from_pretrained(llms[kind]))

    return load


def form(llm, most, titles=None, time_scaling=None, **changes):
    """A form alone, the text one where there are titles."""
    config = {"history_items": most, "llm_padding_side": "right", "prefix_cache": 4}
    config |= {"llm_batch_size": 7, "show_progress": False, "cf_standardize": True} | changes
    teacher = SimpleNamespace(item_embeddings=torch.randn(len(titles or range(9)), 8))
    if titles is None:
        return TableForm(config, llm, teacher, torch.randn(9, 6))
    return TextForm(config, llm, teacher, titles, time_scaling)


def with_slots(llm):
    """The tokenizer, which knows the slots as special tokens, and the code of each."""
    tokenizer = copy.deepcopy(llm.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SLOTS)})
    return tokenizer, tokenizer.convert_tokens_to_ids(list(SLOTS))


def as_codes(ids, known):
    """What a tokenizer with slots gives, in our codes: slots of items count from 1."""
    out, history, item_out = known
    count, codes = 0, []
    for token in ids:
        count += token == history
        codes.append(slot(0) if token in (out, item_out) else token)
        if token == history:
            codes[-1] = slot(count)
    return codes


@pytest.mark.parametrize("kind", ["bert", "llama", "qwen2"])
@pytest.mark.parametrize("dates", [False, True])
def test_tokens_are_those_of_a_tokenizer_that_knows_the_slots(llm, kind, dates):
    loaded = llm(kind)
    made = form(loaded, 3, TITLES, TimeScaling() if dates else None)
    tokenizer, known = with_slots(loaded)
    lengths = torch.randint(1, 6, (20,))
    items = torch.randint(1, len(TITLES), (20, 5)) * (torch.arange(5) < lengths.unsqueeze(1))
    times = torch.randint(0, 20_000, (20, 5)) * DAY
    for _ in range(2):  # the second time all texts are known
        found = made.user_prompts(items, lengths, times)
        for row, ids, when, length in zip(found, items.tolist(), times, lengths.tolist()):
            begin = max(0, length - 3)
            named = prompts.dates_of(when[begin:length].numpy()).tolist() if dates else None
            words = user_prompt([TITLES[item] for item in ids[begin:length]], named)
            expected = as_codes(tokenizer(words)["input_ids"], known)
            assert [*made.shared_prefix_tokens, *row[row != PAD].tolist()] == expected
    ids = torch.arange(1, len(TITLES))
    begun = [[]] * len(ids)
    if made.prefixes:
        shared = tokenizer(item_prompt("x"))["input_ids"][: made.prefixes.n_shared]
        begun = [[*shared, *row.tolist()] for row in made.prefixes.rows]
    for item, before, row in zip(ids.tolist(), begun, made.item_prompts(ids)):
        expected = as_codes(tokenizer(item_prompt(TITLES[item]))["input_ids"], known)
        assert [*before, *row[row != PAD].tolist()] == expected


def test_words_of_a_user_by_hand():
    assert user_prompt(["Red soap", 'Gel "X"'], ["2014-07-23", "2014-07-24"]) == (
        "This user has made a series of purchases in the following order: "
        'Item No.1, Time: 2014-07-23, "Red soap"[HistoryEmb],'
        'Item No.2, Time: 2014-07-24, "Gel "X""[HistoryEmb]'
        ". Based on this sequence of purchases, generate user representation token:[UserOut]"
    )
    assert user_prompt(["Red soap"]) == (
        "This user has made a series of purchases in the following order: "
        'Item No.1, "Red soap"[HistoryEmb]'
        ". Based on this sequence of purchases, generate user representation token:[UserOut]"
    )


def test_words_of_an_item_by_hand():
    assert item_prompt("Red soap") == (
        'The item title and item embedding are as follows: "Red soap"[HistoryEmb]'
        ", then generate item representation token:[ItemOut]"
    )


def in_words(llm, row, names):
    """A prompt read back: tokens as words, slots by their names."""
    return [
        names[slot(0) - code] if code < 0 else llm.tokenizer.convert_ids_to_tokens(code)
        for code in row[row != PAD].tolist()
    ]


def test_tokens_and_slots_of_a_user_by_hand(llm):
    made = form(llm("bert"), 2, ["", "red soap", "blue gel", "item 7"])
    items, lengths = torch.tensor([[3, 1, 2], [2, 0, 0]]), torch.tensor([3, 1])
    prompts = made.user_prompts(items, lengths)
    names = ["[UserOut]", "[H1]", "[H2]"]
    start = "<s> This user has made a series of purchases in the following order : Item No . 1"
    assert " ".join(in_words(made.llm, prompts[0], names)) == (
        f'{start} , " red soap " [H1] , Item No . 2 , " blue gel " [H2] {END}'
    )
    assert " ".join(in_words(made.llm, prompts[1], names)) == f'{start} , " blue gel " [H1] {END}'
    assert (prompts[1] == PAD).int().diff().sum() == 1  # padded on the right


def test_a_table_prompt_by_hand(llm):
    made = form(llm("bert"), 2)
    prompts = made.user_prompts(torch.ones(2, 5, dtype=torch.long), torch.tensor([5, 1]))
    names = ["[UserOut]", "[T1]", "[H1]", "[T2]", "[H2]"]
    start = "<s> This user has made a series of purchases in the following order :"
    assert " ".join(in_words(made.llm, prompts[0], names)) == f"{start} [T1] [H1] [T2] [H2] {END}"
    assert " ".join(in_words(made.llm, prompts[1], names)) == f"{start} [T1] [H1] {END}"


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_what_prompts_begin_with_ends_before_the_date(llm, kind):
    """A tokenizer that splits numbers into digits would share the first of the years."""
    made = form(llm(kind), 1, ["", "red soap"], TimeScaling())
    assert len(made.shared_prefix_tokens) > 10
    one = torch.tensor([1])
    for date in ("1970-01-02", "1998-04-01", "2014-07-23", "2031-12-31"):
        day = np.datetime64(date).astype(int)
        (row,) = made.user_prompts(one[None], one, torch.tensor([[day * float(DAY)]]))
        words = user_prompt(["red soap"], [date]).partition("[HistoryEmb]")[0]
        whole = made.llm.tokenize([words])[0]
        assert [*made.shared_prefix_tokens, *row.tolist()][: len(whole)] == whole


def test_prompts_are_tokenized_once(llm, monkeypatch):
    made = form(llm("llama"), 3, ["", *(f"red {n}" for n in range(9))])
    items, lengths = torch.tensor([[1, 2, 3], [4, 2, 0]]), torch.tensor([3, 2])
    first, asked = made.user_prompts(items, lengths), []
    monkeypatch.setattr(made.llm, "tokenize", lambda texts: asked.extend(texts) or [])
    again = made.user_prompts(items.flip(0), lengths.flip(0))
    assert torch.equal(again.flip(0), first) and not asked


def test_known_tokens_are_forgotten_where_they_are_many(llm, monkeypatch):
    monkeypatch.setattr("recbole_llmemb.models.llmsrec.item_inputs._MOST_KEPT", 3)
    made = form(llm("bert"), 2, TITLES)
    items, lengths = torch.randint(1, len(TITLES), (9, 2)), torch.full((9,), 2)
    first = made.user_prompts(items, lengths)
    assert len(made._known) > 3
    made.user_prompts(items[:1, :1], lengths[:1] - 1)
    assert len(made._known) == 1
    assert torch.equal(made.user_prompts(items, lengths), first)


def test_a_prompt_that_is_too_long_loses_its_oldest_items(llm, monkeypatch):
    made = form(llm("bert"), 3, ["", "red", "blue", "gel"])
    monkeypatch.setattr(FrozenLLM, "max_prompt_tokens", 50)
    items = torch.tensor([[1, 2, 3], [3, 0, 0]])
    prompts = made.user_prompts(items, torch.tensor([3, 1]))
    words = in_words(made.llm, prompts[0], ["[UserOut]", "[H1]", "[H2]", "[H3]"])
    assert len(words) <= 50
    assert "red" not in words and "[H1]" not in words
    assert words.index("blue") < words.index("[H2]") < words.index("gel") < words.index("[H3]")
    assert words.index("No") + 2 == words.index("1") < words.index("blue")  # counted from 1
    assert slot(1) in prompts[1]
    monkeypatch.setattr(FrozenLLM, "max_prompt_tokens", 20)
    with pytest.raises(UserError) as error:
        made.user_prompts(torch.tensor([[1]]), torch.tensor([1]))
    assert error.value.key == "llm_model"


@pytest.mark.parametrize("family", ["Roberta", "XLMRoberta", "MPNet", "Bert"])
def test_the_longest_prompt_is_what_the_llm_reads(llms, family):
    """RoBERTa and its kin have fewer places than max_position_embeddings says."""
    import transformers

    tokenizer = AutoTokenizer.from_pretrained(llms["bert"])
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 66}
    configuration = getattr(transformers, f"{family}Config")(**shape, pad_token_id=1)
    model = getattr(transformers, f"{family}Model")(configuration)
    loaded = FrozenLLM(model, tokenizer)
    assert loaded.max_prompt_tokens == (66 if family == "Bert" else 64)

    def read(length):
        codes = torch.tensor([[*range(4, 3 + length), slot(0)]]).clamp(max=len(tokenizer) - 1)
        return loaded.states(codes, torch.zeros(1, 1, 16))

    assert read(loaded.max_prompt_tokens).isfinite().all()
    with pytest.raises((RuntimeError, IndexError)):
        read(loaded.max_prompt_tokens + 1)


def test_dates():
    seconds = [1406073600, 1406073600.999, 1406073599]
    for times in (np.array(seconds), np.array(seconds) * 1000):
        assert prompts.dates_of(times).tolist() == ["2014-07-23", "2014-07-23", "2014-07-22"]


@pytest.mark.parametrize("unit", [1, 1000], ids=["seconds", "milliseconds"])
def test_a_day_begins_at_midnight(unit):
    dates = np.datetime64("2000-01-01") + np.arange(9_000)
    times = dates.astype(int) * 86_400.0 * unit
    assert (prompts.dates_of(times) == dates.astype(str)).all()
    assert (prompts.dates_of(times - 1) == (dates - 1).astype(str)).all()


@pytest.mark.parametrize("begin, real", [(0, False), (1.4e9, True), (1.4e12, True), (2014, False)])
def test_dates_are_named_where_times_are_real(caplog, begin, real):
    class Dataset:
        time_field, time_scaling = "timestamp", TimeScaling()

        class sorted_interactions:  # noqa: N801
            fields = {"timestamp": torch.arange(4) + torch.tensor(begin)}

    config = {"prompt_dates": None, "dataset": "tiny"}
    assert prompts.has_dates(config, Dataset) is real
    assert ("prompts name no dates" in caplog.text) is not real
    assert prompts.has_dates(config | {"prompt_dates": not real}, Dataset) is not real


def test_last_items_of_histories():
    items, lengths = torch.tensor([[5, 6, 7, 8], [9, 0, 0, 0]]), torch.tensor([4, 1])
    assert recent(items, lengths, 2).tolist() == [[7, 8], [9, 0]]
    assert recent(items, lengths, 9).tolist() == items.tolist()


@pytest.mark.parametrize("left", [False, True])
def test_slots_are_filled_with_the_right_vectors(left):
    codes = pad_codes([[7, slot(1), 8, slot(0)], [9, slot(2), slot(0)]], left)
    assert codes[0].tolist() == [7, -3, 8, -2]
    assert codes[1].tolist() == ([PAD, 9, -4, -2] if left else [9, -4, -2, PAD])
    vectors = (torch.arange(6.0) + 1).view(2, 3, 1).requires_grad_()
    filled = fill(torch.full((2, 4, 1), 0.5), codes, vectors)[:, :, 0]
    second = [0.5, 0.5, 6.0, 4.0] if left else [0.5, 6.0, 4.0, 0.5]
    assert filled.tolist() == [[0.5, 2.0, 0.5, 1.0], second]
    filled.sum().backward()
    assert vectors.grad.view(-1).tolist() == [1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("budget", [4, 1e-6, 0])
def test_kept_prefixes_give_what_the_whole_prompt_gives(llm, kind, budget):
    loaded = llm(kind)
    rows = [[3, 4, 5], [3, 4, 5, 6, 7, 8], [3, 4, 9, 10], [3, 4, 2, 2, 2]]
    prefixes = PrefixKVCache(loaded, rows, budget, batch_size=3)
    assert prefixes.n_shared == 2
    assert prefixes.keeps is (budget == 4)  # all or none
    ids = torch.tensor([1, 0, 3, 1, 2])
    end = [slot(1), 11, slot(0)]
    vectors = torch.randn(5, 2, loaded.width, requires_grad=True)
    found = loaded.states(pad_codes([end] * 5), vectors, *prefixes.layers(ids))
    expected = loaded.states(pad_codes([rows[i] + end for i in ids.tolist()]), vectors)
    assert torch.allclose(found, expected, atol=1e-4)
    slopes = [torch.autograd.grad(x.square().sum(), vectors)[0] for x in (found, expected)]
    assert torch.allclose(*slopes, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "llama", "qwen2"])
def test_decoders_go_on_from_prefixes(llm, kind):
    assert llm(kind).supports_kv_prefix is (kind != "bert")


def test_what_is_kept_is_computed_once(llmsrec, monkeypatch):
    _, _, model, _ = llmsrec("llama", item_input="text")
    tokens = []
    real = model.llm.keys_values
    count = lambda t, *a: tokens.append(t.numel()) or real(t, *a)  # noqa: E731
    monkeypatch.setattr(model.llm, "keys_values", count)
    first = model.item_matrix()
    assert len(tokens) == -(-(model.n_items - 1) // 7)
    model._catalog.forget()
    assert torch.allclose(model.item_matrix(), first) and len(tokens) == -(
        -(model.n_items - 1) // 7
    )
