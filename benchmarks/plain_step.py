"""One LLMEmb epoch with BCE against the plainest form of the same training.

    python -m benchmarks.plain_step [--repeats=3] [--data_path=DIR]

Amazon_Beauty, SASRec with hidden 64, length 50, batch 128, the default encoder's table. The
plain form is written out below as one would from the paper: every sequence padded to 50, the
two linear layers one after the other on every input, positive and negative, negatives drawn
in Python until one is not in the user's history. Measured on one thread and on all.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import subjects, timing

LIMIT = 5.0
LENGTH, HIDDEN, BATCH = 50, 64, 128
SIZES = {
    "hidden_size": HIDDEN,
    "inner_size": 256,
    "n_heads": 1,
    "n_layers": 2,
    "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5,
    "MAX_ITEM_LIST_LENGTH": LENGTH,
}


class PlainRows(torch.utils.data.Dataset):
    """One padded row per user: inputs, next items, and a negative for each of them."""

    def __init__(self, histories, n_items):
        self.histories, self.n_items = histories, n_items
        self.known = [set(history) for history in histories]

    def __len__(self):
        return len(self.histories)

    def __getitem__(self, user):
        history = self.histories[user][-(LENGTH + 1) :]
        rows = [[0] * LENGTH for _ in range(3)]
        start = LENGTH + 1 - len(history)  # padding stands on the left
        for place, (item, following) in enumerate(zip(history, history[1:]), start):
            negative = random.randint(1, self.n_items - 1)
            while negative in self.known[user]:
                negative = random.randint(1, self.n_items - 1)
            rows[0][place], rows[1][place], rows[2][place] = item, following, negative
        return tuple(torch.tensor(row) for row in rows)


class PlainLLMEmb(nn.Module):
    """SASRec over an adapted table, nothing shared and nothing merged."""

    def __init__(self, table):
        from recbole.model.layers import TransformerEncoder

        super().__init__()
        width = table.shape[1]
        self.table = nn.Embedding.from_pretrained(table, freeze=True, padding_idx=0)
        self.adapter = nn.Sequential(nn.Linear(width, width // 2), nn.Linear(width // 2, HIDDEN))
        self.position = nn.Embedding(LENGTH, HIDDEN)
        self.norm, self.dropout = nn.LayerNorm(HIDDEN, eps=1e-12), nn.Dropout(0.5)
        # RecBole's, which is also what LLMEmbSASRec is built on: the backbones are equal.
        self.encoder = TransformerEncoder(
            n_layers=2,
            n_heads=1,
            hidden_size=HIDDEN,
            inner_size=256,
            hidden_dropout_prob=0.5,
            attn_dropout_prob=0.5,
            hidden_act="gelu",
            layer_norm_eps=1e-12,
        )

    def items(self, ids):
        return self.adapter(self.table(ids))

    def forward(self, inputs, positives, negatives):
        states = self.items(inputs) + self.position(torch.arange(LENGTH))
        visible = (inputs != 0)[:, None, None, :].expand(-1, -1, LENGTH, -1).tril()
        mask = torch.where(visible, 0.0, -10000.0)
        states = self.encoder(self.dropout(self.norm(states)), mask)[-1]
        right = (states * self.items(positives)).sum(-1)
        wrong = (states * self.items(negatives)).sum(-1)
        real = positives != 0
        loss = F.binary_cross_entropy_with_logits(right[real], torch.ones_like(right[real]))
        return loss + F.binary_cross_entropy_with_logits(wrong[real], torch.zeros_like(wrong[real]))


def histories(dataset, train):
    """Training items of each user who has two of them, in order."""
    fields = dataset.sorted_interactions.fields
    users, items = fields[dataset.uid_field].tolist(), fields[dataset.iid_field].tolist()
    found: dict = {}
    for user, item in zip(users, items):
        found.setdefault(user, []).append(item)
    # The last two of each user are for validation and test.
    kept = [history[:-2] for history in found.values() if len(history) > 3]
    assert sum(len(history) - 1 for history in kept) == len(train)
    return kept


class PlainTraining:
    """The plain form's epoch."""

    def __init__(self, rows, table):
        self.loader = torch.utils.data.DataLoader(rows, batch_size=BATCH, shuffle=True)
        self.model = PlainLLMEmb(table)
        kept = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(kept, lr=1e-3)

    def epoch(self, steps=None):
        self.model.train()
        for step, batch in enumerate(self.loader):
            if step == steps:
                return steps
            self.optimizer.zero_grad()
            loss = self.model(*batch)
            loss.backward()
            self.optimizer.step()
            loss.item()
        return len(self.loader)


def main(argv=None):
    parser = timing.options(__doc__, repeats=3)
    parser.add_argument("--steps", type=int, help="measure so many plain steps, not an epoch")
    chosen = timing.start(parser, argv)
    ours = subjects.ours(
        "Amazon_Beauty",
        chosen.data_path,
        item_embedding="table",
        loss_type="BCE",
        train_batch_size=BATCH,
        **SIZES,
    )
    dataset = ours.data.dataset
    rows = PlainRows(histories(dataset, ours.data.train._dataset), dataset.item_num)
    plain = PlainTraining(rows, ours.model.item_embedding.table)
    steps = len(plain.loader)
    print(f"{len(rows):,} users, {len(ours.data.train._dataset):,} positions, {steps} plain steps")

    def our_epoch():
        ours.train_steps(None)

    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        sides = {
            "plain form": lambda: plain.epoch(chosen.steps) / steps,
            "LLMEmbSASRec": our_epoch,
        }
        seconds = timing.alternate(sides, chosen.repeats, warmup=1)
        print(f"\nan epoch, {threads} thread{'s' * (threads > 1)}")
        for name, turns in seconds.items():
            print(f"  {name:<14} {timing.median(turns):>8.2f} s  {timing.spread(turns)}")
        ratio = timing.median(seconds["plain form"]) / timing.median(seconds["LLMEmbSASRec"])
        timing.report(f"{threads} thread{'s' * (threads > 1)}", ratio, LIMIT)


if __name__ == "__main__":
    main()
