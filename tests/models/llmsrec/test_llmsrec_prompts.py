# ruff: noqa: F811 (fixtures come by name)
"""Prompts of LLM-SRec: their words, their tokens, their slots, and what is computed once."""

import numpy as np
import pytest
import torch
from llmsrec_fixtures import cf_model, llms, llmsrec  # noqa: F401
from transformers import AutoModel, AutoTokenizer

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.dataset import Clock
from recbole_llmemb.models.llmsrec import texts
from recbole_llmemb.models.llmsrec.llm import FrozenLLM
from recbole_llmemb.models.llmsrec.prefix import Prefixes
from recbole_llmemb.models.llmsrec.prompt_batch import PAD, Prompts, fill, pad_rows, slot
from recbole_llmemb.models.llmsrec.prompt_builder import TableBook, TextBook, recent

END = ". Based on this sequence of purchases , generate user representation token : [UserOut] </s>"


@pytest.fixture(scope="module")
def llm(llms):
    def load(kind):
        model = AutoModel.from_pretrained(llms[kind])
        return FrozenLLM(model, AutoTokenizer.from_pretrained(llms[kind]))

    return load


def test_words_of_a_user_by_hand():
    assert texts.user_prompt(["Red soap", 'Gel "X"'], ["2014-07-23", "2014-07-24"]) == (
        "This user has made a series of purchases in the following order: "
        'Item No.1, Time: 2014-07-23, "Red soap"[HistoryEmb],'
        'Item No.2, Time: 2014-07-24, "Gel "X""[HistoryEmb]'
        ". Based on this sequence of purchases, generate user representation token:[UserOut]"
    )
    assert texts.user_prompt(["Red soap"]) == (
        "This user has made a series of purchases in the following order: "
        'Item No.1, "Red soap"[HistoryEmb]'
        ". Based on this sequence of purchases, generate user representation token:[UserOut]"
    )


def test_words_of_an_item_by_hand():
    assert texts.item_prompt("Red soap") == (
        'The item title and item embedding are as follows: "Red soap"[HistoryEmb]'
        ", then generate item representation token:[ItemOut]"
    )


def in_words(llm, prompts, row, names):
    """A prompt read back: tokens as words, slots by their names."""
    inside = prompts.mask[row].bool()
    words = llm.tokenizer.convert_ids_to_tokens(prompts.tokens[row].tolist())
    width = prompts.tokens.shape[1]
    for place, source in zip(prompts.places.tolist(), prompts.sources.tolist()):
        if place // width == row:
            words[place % width] = names[source % len(names)]
    return [word for word, kept in zip(words, inside.tolist()) if kept]


def test_tokens_and_slots_of_a_user_by_hand(llm):
    book = TextBook(llm("bert"), ["", "red soap", "blue gel", "item 7"], most=2)
    items, lengths = torch.tensor([[3, 1, 2], [2, 0, 0]]), torch.tensor([3, 1])
    prompts = book.prompts(items, lengths)
    names = ["[UserOut]", "[H1]", "[H2]"]
    start = "<s> This user has made a series of purchases in the following order : Item No . 1"
    assert " ".join(in_words(book.llm, prompts, 0, names)) == (
        f'{start} , " red soap " [H1] , Item No . 2 , " blue gel " [H2] {END}'
    )
    assert " ".join(in_words(book.llm, prompts, 1, names)) == f'{start} , " blue gel " [H1] {END}'
    ends = prompts.tokens.shape[1] * torch.arange(2) + prompts.ends
    assert set(ends.tolist()) < set(prompts.places.tolist())
    assert prompts.mask.sum().item() < prompts.mask.numel()  # padded on the right
    assert prompts.mask[1, : int(prompts.mask[1].sum())].all()


def test_a_table_prompt_by_hand(llm):
    loaded = llm("bert")
    book = TableBook(loaded, most=2)
    prompts = book.prompts(torch.ones(2, 5, dtype=torch.long), torch.tensor([5, 1]))
    names = ["[UserOut]", "[T1]", "[H1]", "[T2]", "[H2]"]
    start = "<s> This user has made a series of purchases in the following order :"
    assert " ".join(in_words(loaded, prompts, 0, names)) == f"{start} [T1] [H1] [T2] [H2] {END}"
    assert " ".join(in_words(loaded, prompts, 1, names)) == f"{start} [T1] [H1] {END}"


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_decoders_leave_out_what_all_prompts_begin_with(llm, kind):
    loaded = llm(kind)
    book = TextBook(loaded, ["", "red soap", "blue gel"], most=2)
    whole = texts.USER_START + texts.history_text(1, "red soap")
    prompts = book.prompts(torch.tensor([[1]]), torch.tensor([1]))
    ids = book.shared + prompts.tokens[0].tolist()
    assert len(book.shared) > 10
    assert ids[: len(loaded.tokenise([whole])[0])] == loaded.tokenise([whole])[0]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_what_prompts_begin_with_ends_before_the_date(llm, kind):
    """A tokenizer that splits numbers into digits would share the first of the years."""
    loaded = llm(kind)
    book = TextBook(loaded, ["", "red soap"], most=1, clock=Clock())
    one = torch.tensor([1])
    for date in ("1970-01-02", "1998-04-01", "2014-07-23", "2031-12-31"):
        day = np.datetime64(date).astype(int)
        prompts = book.prompts(one[None], one, torch.tensor([[day * 86_400.0]]))
        begun = book.shared + prompts.tokens[0].tolist()
        whole = loaded.tokenise([texts.USER_START + texts.history_text(1, "red soap", date)])[0]
        assert begun[: len(whole)] == whole


def test_prompts_are_tokenised_once(llm, monkeypatch):
    book = TextBook(llm("llama"), ["", *(f"red {n}" for n in range(9))], most=3)
    items, lengths = torch.tensor([[1, 2, 3], [4, 2, 0]]), torch.tensor([3, 2])
    first = book.prompts(items, lengths)
    monkeypatch.setattr(book.llm, "tokenise", None)
    again = book.prompts(items.flip(0), lengths.flip(0))
    assert torch.equal(again.tokens.flip(0), first.tokens)


def test_a_prompt_that_is_too_long_loses_its_oldest_items(llm):
    book = TextBook(llm("bert"), ["", "red", "blue", "gel"], most=3)
    book.limit = 50
    prompts = book.prompts(torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    words = in_words(book.llm, prompts, 0, ["[UserOut]", "[H1]", "[H2]", "[H3]"])
    assert len(words) <= 50
    assert "red" not in words and "[H1]" not in words
    assert words.index("blue") < words.index("[H2]") < words.index("gel") < words.index("[H3]")
    book.limit = 20
    with pytest.raises(UserError, match="no user prompt fits"):
        book.prompts(torch.tensor([[1]]), torch.tensor([1]))


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
    assert loaded.longest == (66 if family == "Bert" else 64)

    def read(length):
        codes = torch.tensor([[*range(4, 3 + length), slot(0)]]).clamp(max=len(tokenizer) - 1)
        return loaded.states(Prompts.from_codes(codes, 1), torch.zeros(1, 1, 16))

    assert read(loaded.longest).isfinite().all()
    with pytest.raises((RuntimeError, IndexError)):
        read(loaded.longest + 1)


def test_dates():
    assert texts.date_of(texts.days_of([1406073600])[0]) == "2014-07-23"
    assert texts.date_of(texts.days_of([1406073600999])[0]) == "2014-07-23"  # milliseconds
    assert texts.date_of(texts.days_of([1406073599])[0]) == "2014-07-22"


@pytest.mark.parametrize("unit", [1, 1000], ids=["seconds", "milliseconds"])
def test_a_day_begins_at_midnight(unit):
    days = np.arange(10_957, 20_000)
    times = days * 86_400.0 * unit
    assert (texts.days_of(times) == days).all()
    assert (texts.days_of(times - 1) == days - 1).all()


def test_each_item_has_the_date_of_its_own_time(llm):
    loaded = llm("bert")
    book = TextBook(loaded, ["", "red soap", "blue gel"], most=2, clock=Clock())
    items, lengths = torch.tensor([[1, 2, 1]]), torch.tensor([3])
    times = torch.tensor([[0.0, 30.0, 45.0]]) * 86_400
    prompts = book.prompts(items, lengths, times)
    shown = [(1, "blue gel", "1970-01-31"), (2, "red soap", "1970-02-15")]
    first, second = (texts.history_text(*each) for each in shown)
    expected = [*loaded.head, *loaded.tokenise([texts.USER_START + first])[0], 0]
    expected += [*loaded.tokenise([second])[0], 0]
    assert prompts.tokens[0].tolist()[: len(expected)] == expected
    other = book.prompts(items, lengths, times + 86_400)
    assert not torch.equal(other.tokens, prompts.tokens)


@pytest.mark.parametrize("begin, real", [(0, False), (1.4e9, True), (1.4e12, True), (2014, False)])
def test_dates_are_named_where_times_are_real(caplog, begin, real):
    class Dataset:
        time_field, clock = "timestamp", Clock()

        class sorted_interactions:  # noqa: N801
            fields = {"timestamp": torch.arange(4) + torch.tensor(begin)}

    config = {"prompt_dates": None, "dataset": "tiny"}
    assert texts.has_dates(config, Dataset) is real
    assert ("prompts name no dates" in caplog.text) is not real
    assert texts.has_dates(config | {"prompt_dates": not real}, Dataset) is not real


def test_last_items_of_histories():
    items, lengths = torch.tensor([[5, 6, 7, 8], [9, 0, 0, 0]]), torch.tensor([4, 1])
    shown, count, twice = recent(items, lengths, 2, [items * 2])
    assert shown.tolist() == [[7, 8], [9, 0]] and count.tolist() == [2, 1]
    assert twice.tolist() == [[14, 16], [18, 0]]


@pytest.mark.parametrize("left", [False, True])
def test_slots_are_filled_with_the_right_vectors(left):
    flat = torch.tensor([7, slot(1), 8, slot(0), 9, slot(2), slot(0)])
    codes = pad_rows(torch.tensor([0, 4]), torch.tensor([4, 3]), flat)
    assert codes.tolist() == [[7, -3, 8, -2], [9, -4, -2, PAD]]
    prompts = Prompts.from_codes(codes, 3, left)
    vectors = (torch.arange(6.0) + 1).view(2, 3, 1).requires_grad_()
    filled = fill(torch.full((2, 4, 1), 0.5), prompts, vectors)[:, :, 0]
    second = [0.5, 0.5, 6.0, 4.0] if left else [0.5, 6.0, 4.0, 0.5]
    assert filled.tolist() == [[0.5, 2.0, 0.5, 1.0], second]
    assert prompts.ends.tolist() == [3, 3 if left else 2]
    filled.sum().backward()
    assert vectors.grad.view(-1).tolist() == [1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("budget", [4, 1e-6, 0], ids=["all", "some", "none"])
def test_kept_prefixes_give_what_the_whole_prompt_gives(llm, kind, budget):
    loaded = llm(kind)
    assert loaded.keeps_prefixes
    rows = [[3, 4, 5], [3, 4, 5, 6, 7, 8], [3, 4, 9, 10], [3, 4, 2, 2, 2]]
    prefixes = Prefixes(loaded, rows, budget, batch_size=3)
    assert prefixes.n_shared == 2
    if budget == 1e-6:
        assert 0 < prefixes.n_kept < 4
    ids = torch.tensor([1, 0, 3, 1, 2])
    end = [slot(1), 11, slot(0)]
    vectors = torch.randn(5, 2, loaded.width, requires_grad=True)
    rest = Prompts.from_codes(torch.tensor([end] * 5), 2)
    found = loaded.states(rest, vectors, *prefixes.layers(ids))
    whole = [torch.tensor(rows[i] + end) for i in ids.tolist()]
    codes = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True, padding_value=PAD)
    expected = loaded.states(Prompts.from_codes(codes, 2), vectors)
    assert torch.allclose(found, expected, atol=1e-4)
    slopes = [torch.autograd.grad(x.square().sum(), vectors)[0] for x in (found, expected)]
    assert torch.allclose(*slopes, atol=1e-4)


def test_encoders_keep_no_prefixes(llm):
    assert not llm("bert").keeps_prefixes


def test_what_is_kept_is_computed_once(llmsrec, monkeypatch):
    _, _, model, _ = llmsrec("llama", item_input="text")
    tokens = []
    real = model.llm.keys_values
    count = lambda t, *a: tokens.append(t.numel()) or real(t, *a)  # noqa: E731
    monkeypatch.setattr(model.llm, "keys_values", count)
    first = model.item_matrix()
    assert len(tokens) == -(-(model.n_items - 1) // 7)
    model._items = None
    assert torch.allclose(model.item_matrix(), first) and len(tokens) == -(
        -(model.n_items - 1) // 7
    )
