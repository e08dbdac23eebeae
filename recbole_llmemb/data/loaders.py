"""Training loaders for both of ``train_mode``, in RecBole's shape, and the negatives they draw."""

from __future__ import annotations

import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction

from recbole_llmemb.config.shared import TrainingSettings
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.histories import POSITION
from recbole_llmemb.data.windows import (
    last_of_each,
    length_buckets,
    next_item_windows,
    own_share,
    plan_batches,
    trim_histories,
    whole_windows,
)

#: Flat index (row × width + column) of the positions that are trained on, ``(n,)``.
LOSS_POSITION = "loss_position"
#: The distinct items a batch needs, padding and mask included, ``(m,)``.
BATCH_ITEMS = "batch_items"
#: The targets that the alignment loss compares, ``(k,)``: each once, or one per position.
ALIGN_ITEMS = "align_items"
#: Of each masked item of a :class:`LengthSortedBatch`: its place among the positions of all chunks,
#: one after the other; the item; and the negative drawn for it, ``(m,)`` each.
MASKED = ("masked_place", "masked_item", "masked_negative")


class NegativeSampler:
    """Draws items a user has not interacted with in training.

    RecBole draws in Python, row by row, and for sequential models only avoids the row's
    target; SASRec's and LLMEmb's authors avoid the user's whole training sequence, which
    is the default here.

    ``users``, ``items`` (n,): the training interactions.
    ``n_items``: items with padding; items 1 … ``n_items - 1`` are drawn.
    ``generator``: the only source of randomness.
    ``excludes``: what a negative must differ from, the user's ``history`` or the ``target``.
    ``distribution``: ``uniform``, or ``popularity``, in proportion to ``count ** alpha``.
    """

    def __init__(
        self, users, items, n_items, generator, excludes="history", distribution="uniform",
        alpha=1.0,
    ):  # fmt: skip
        self.n_items = n_items
        self.generator = generator
        self.excludes = excludes
        self.known = torch.unique(users * n_items + items)  # sorted: membership by bisection
        self.cumulative, offered = None, n_items - 1
        if distribution == "popularity":
            counts = torch.bincount(items, minlength=n_items).double()
            counts[0] = 0
            self.cumulative = counts.pow(alpha).mul(counts > 0).cumsum(0)
            offered = int((counts > 0).sum())
        if excludes == "history" and len(self.known):
            used = torch.bincount(self.known // n_items)
            if int(used.max()) >= offered:
                told = f"A user has met all {offered} items, so no negative can be drawn"
                raise UserError(f"{told}; set negative_excludes: target or filter such users.")
        if offered < 2:
            raise UserError("There is only one item to draw negatives from; set loss_type: CE.")

    def _draw(self, count):
        if self.cumulative is None:
            return torch.randint(1, self.n_items, (count,), generator=self.generator)
        point = torch.rand(count, generator=self.generator, dtype=torch.double)
        index = torch.searchsorted(self.cumulative, point * self.cumulative[-1], right=True)
        return index.clamp_(1, self.n_items - 1)

    def _rejected(self, users, targets, drawn):
        if self.excludes == "target":
            return drawn == targets
        keys = users * self.n_items + drawn
        found = torch.searchsorted(self.known, keys).clamp_(max=len(self.known) - 1)
        return (self.known[found] == keys) | (drawn == targets)

    def sample(self, users, targets):
        """One negative for each target: whose they are, and what they stand against, ``(n,)``."""
        drawn = self._draw(len(targets))
        pending = self._rejected(users, targets, drawn).nonzero().squeeze(1)
        while len(pending):
            drawn[pending] = self._draw(len(pending))
            again = self._rejected(users[pending], targets[pending], drawn[pending])
            pending = pending[again]
        return drawn


class SequenceTrainDataLoader:
    """Batches of windows; each is read once and trained on at every position.

    A batch is an :class:`Interaction` with the user ids ``(b,)``, the padded items
    ``(b, w)`` and lengths ``(b,)`` under RecBole's names, and flat over the trained
    positions: ``loss_position``, the targets under the item id field and, for pairwise
    losses, one negative each under its ``neg_`` name (``(n,)``, or ``(n, k)`` for k > 1).

    ``config``: ``train_batch_size`` is windows per step, on average.
    ``dataset``: the training split, a ``LazySequentialDataset``.
    ``sampler``: RecBole's; not used, negatives are drawn by :class:`NegativeSampler`.
    ``shuffle``: whether to visit the windows in a new order each epoch.
    """

    make_windows = staticmethod(next_item_windows)
    epoch = 0  # that comes, as the trainer says

    def __init__(self, config, dataset, sampler=None, shuffle=True):
        self.config = config
        self._dataset = self.dataset = dataset
        self.sampler = sampler
        self.shuffle = shuffle
        self.generator = torch.Generator()
        self.generator.manual_seed(config["seed"])
        self._plan = None

        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.list_field = self.iid_field + config["LIST_SUFFIX"]
        self.length_field = config["ITEM_LIST_LENGTH_FIELD"]
        self.negative_field = config["NEG_PREFIX"] + self.iid_field
        self.align_positions = config["align_items"] == "positions"
        self.n_items = dataset.item_num
        store = dataset.sorted_interactions
        self.items = store.fields[self.iid_field]
        rows = dataset.inter_feat
        training = TrainingSettings.of(config)
        columns = [rows[f].numpy() for f in (POSITION, self.length_field, self.uid_field)]
        if training.train_targets == "last":
            columns = last_of_each(*columns)
        self.windows = self.make_windows(*columns, training.MAX_ITEM_LIST_LENGTH, training.stride)
        self.negatives, self.negatives_per_target = None, 0
        args = training.train_neg_sample_args or {}
        if args.get("distribution", "none") != "none" and args.get("sample_num") not in ("none", 0):
            self.negatives_per_target = args["sample_num"]
            self.negatives = self._negative_sampler(args)

    def _negative_sampler(self, args):
        known = self._dataset.interactions()
        return NegativeSampler(
            known[self.uid_field],
            known[self.iid_field],
            self.n_items,
            self.generator,
            excludes=TrainingSettings.of(self.config).negative_excludes,
            distribution=args["distribution"],
            alpha=args.get("alpha", 1.0),
        )

    def plan(self):
        """The batches of the coming epoch, drawn once however often they are asked for."""
        if self._plan is None:
            self._plan = self._draw_plan()
            if not self.config["single_spec"]:
                self._plan = own_share(self._plan)
        return self._plan

    def _draw_plan(self):
        lengths, counts = self.windows.lengths, self.windows.target_counts
        size = self.config["train_batch_size"]
        return plan_batches(lengths, counts, size, self.generator, shuffle=self.shuffle)

    def __len__(self):
        return len(self.plan())

    def __iter__(self):
        plan, self._plan = self.plan(), None
        for index in plan:
            yield self.collate(index)

    def collate(self, index):
        """The batch of these windows, ``(b,)``."""
        place, inside, items = self._read(index)
        first = torch.from_numpy(self.windows.n_context[index])
        trained = inside & (torch.arange(inside.shape[1]) >= first.unsqueeze(1))
        loss_position = trained.view(-1).nonzero().squeeze(1)
        targets = self.items[place.view(-1)[loss_position] + 1]
        return self._batch(index, items, trained, loss_position, targets)

    def _read(self, index):
        """Where the items of windows lie, which places hold any, and the items, ``(b, w)`` each."""
        lengths = torch.from_numpy(self.windows.lengths[index]).unsqueeze(1)
        offsets = torch.arange(int(lengths.max()))
        place = torch.from_numpy(self.windows.starts[index]).unsqueeze(1) + offsets
        inside = offsets < lengths
        return place, inside, self.items[place.clamp(max=len(self.items) - 1)] * inside

    def _batch(self, index, sequence, trained, loss_position, targets):
        users = torch.from_numpy(self.windows.users[index])
        columns = {
            self.uid_field: users,
            self.list_field: sequence,
            self.length_field: torch.from_numpy(self.windows.lengths[index]),
            LOSS_POSITION: loss_position,
            self.iid_field: targets,
            ALIGN_ITEMS: targets if self.align_positions else self._distinct(targets),
        }
        needed = [sequence.view(-1), targets]
        if self.negatives is not None:
            k = self.negatives_per_target
            owners = users.repeat_interleave(k * trained.sum(1))
            drawn = self.negatives.sample(owners, targets.repeat_interleave(k))
            needed.append(drawn)
            columns[self.negative_field] = drawn if k == 1 else drawn.view(-1, k)
        columns[BATCH_ITEMS] = self._distinct(torch.cat(needed))
        return Interaction(columns)

    def _distinct(self, items):
        """Each of some items once, in ascending order: as ``torch.unique``, but up to ten times as
        fast where the catalog is not much larger than a batch."""
        if self.n_items > 32 * len(items):
            return torch.unique(items)
        there = torch.zeros(self.n_items + 1, dtype=torch.bool)  # with a mask's number
        there[items] = True
        return there.nonzero().squeeze(1)

    def get_model(self, model):
        """RecBole's hook for dynamic negatives, which need a model: not offered here."""


class ClozeTrainDataLoader(SequenceTrainDataLoader):
    """Batches for BERT4Rec: each sequence is read once, with items masked at random.

    With probability ``ft_ratio`` a sequence is masked at its last item only, as at
    prediction time; otherwise each item is masked with probability ``mask_ratio``
    (RecBole decides this per batch; the rates are the same). A sequence that would have
    no mask gets one at random.
    """

    make_windows = staticmethod(whole_windows)

    def collate(self, index):
        _, inside, items = self._read(index)
        rand = torch.rand(inside.shape, generator=self.generator)
        masked = (rand < self.config["mask_ratio"]) & inside
        # The item with the smallest draw stands in where no item was masked.
        smallest = rand.masked_fill(~inside, 2.0).argmin(1)
        none = ~masked.any(1)
        masked[none, smallest[none]] = True
        last_only = torch.rand(len(index), generator=self.generator) < self.config["ft_ratio"]
        last = inside.sum(1, keepdim=True) - 1
        masked[last_only] = torch.arange(inside.shape[1]) == last[last_only]

        loss_position = masked.view(-1).nonzero().squeeze(1)
        targets = items.view(-1)[loss_position]
        return self._batch(
            index, items.masked_fill(masked, self.n_items), masked, loss_position, targets
        )


class PrefixTrainDataLoader(TrainDataLoader):
    """RecBole's training loader; its batches know the distinct targets, if those are aligned.

    They are found here, on the CPU: on a GPU every step would wait for the one before it. With
    ``prefix_trim``, batches are :class:`LengthSortedBatch`: the same rows in every batch, so the
    same loss and the same gradients.
    """

    def collate_fn(self, index):
        """RecBole's batch of these rows, with ``align_items``."""
        batch, config = super().collate_fn(index), self.config
        if config["prefix_trim"]:
            batch = LengthSortedBatch.of(batch, config)
        if config["align_weight"]:
            targets, every = batch[config["ITEM_ID_FIELD"]], config["align_items"] == "positions"
            batch.interaction[ALIGN_ITEMS] = targets if every else torch.unique(targets)
        return batch


class LengthSortedBatch(Interaction):
    """A prefix batch without the padding: rows by length, in a few chunks of nearly equal ones.

    RecBole pads every history to ``MAX_ITEM_LIST_LENGTH``, and most are short: on Amazon_Beauty
    nine of ten positions that a model reads are padding.

    ``chunks``: from :func:`length_buckets`, found before the batch goes to a GPU, where finding
    out would make every step wait for the one before it.
    ``targets``: where RecBole has masked items (BERT4Rec), how many do not begin a row; those that
    do come last of :data:`MASKED`. RecBole's loss leaves them out: it takes their place, 0, for
    padding.
    """

    def __init__(self, columns, chunks, targets=None):
        super().__init__(columns)
        self.chunks, self.targets = chunks, targets

    @classmethod
    def of(cls, batch, config):
        """RecBole's batch, sorted by length and cut to the longest."""
        field = config["ITEM_LIST_LENGTH_FIELD"]
        trim_histories(batch, config)
        order = torch.argsort(batch[field], stable=True)
        columns = {name: column[order] for name, column in batch.interaction.items()}
        chunks = length_buckets(columns[field])
        if "MASK_INDEX" not in columns:
            return cls(columns, chunks)
        masked, targets = masked_items(columns, chunks, config["ITEM_ID_FIELD"])
        return cls(columns | masked, chunks, targets)

    def to(self, device, selected_field=None):
        """As RecBole's."""
        moved = super().to(device, selected_field).interaction
        return LengthSortedBatch(moved, self.chunks, self.targets)


def masked_items(columns, chunks, field):
    """:data:`MASKED` of the columns that RecBole's transform has made, and ``targets``."""
    items, negatives = columns[f"Pos_{field}"], columns[f"Neg_{field}"]
    rows, which = (items > 0).nonzero(as_tuple=True)
    positions = columns["MASK_INDEX"][rows, which]
    counts = torch.tensor([end - begin for begin, end, _ in chunks])
    widths = torch.tensor([width for *_, width in chunks]).repeat_interleave(counts)
    places = (widths.cumsum(0) - widths)[rows] + positions
    order = torch.argsort(positions == 0, stable=True)
    masked = (places, items[rows, which], negatives[rows, which])
    found = {name: values[order] for name, values in zip(MASKED, masked)}
    return found, int((positions > 0).sum())
