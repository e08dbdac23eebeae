"""Training loaders for ``train_mode: sequence``, in the shape RecBole's trainer expects."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction

from recbole_llmemb.config.shared import TrainingSettings
from recbole_llmemb.data.batching import plan_batches
from recbole_llmemb.data.lazy import POSITION
from recbole_llmemb.data.negatives import NegativeSampler
from recbole_llmemb.data.windows import next_item_windows, whole_windows

#: Flat index (row × width + column) of the positions that are trained on, ``(n,)``.
LOSS_POSITION = "loss_position"
#: The distinct items a batch needs, padding and mask included, ``(m,)``.
BATCH_ITEMS = "batch_items"
#: The targets that the alignment loss compares, ``(k,)``: each once, or one per position.
ALIGN_ITEMS = "align_items"


class SequenceTrainDataLoader:
    """Batches of windows; each is read once and trained on at every position.

    A batch is an :class:`Interaction` with the user ids ``(b,)``, the padded items
    ``(b, w)`` and lengths ``(b,)`` under RecBole's names, and flat over the trained
    positions: ``loss_position``, the targets under the item id field and, for pairwise
    losses, one negative each under its ``neg_`` name (``(n,)``, or ``(n, k)`` for k > 1).

    Parameters
    ----------
    config : recbole.config.Config
        Reads ``train_batch_size`` (windows per step, on average), ``sequence_stride``,
        ``train_neg_sample_args``, ``negative_excludes`` and ``seed``.
    dataset : LazySequentialDataset
        The training split.
    sampler : object
        RecBole's sampler; not used, negatives are drawn by :class:`NegativeSampler`.
    shuffle : bool
        Whether to visit the windows in a new order each epoch.
    """

    make_windows = staticmethod(next_item_windows)

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
        self.windows = self.make_windows(
            rows[POSITION].numpy(),
            rows[self.length_field].numpy(),
            rows[self.uid_field].numpy(),
            training.MAX_ITEM_LIST_LENGTH,
            training.stride,
        )
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
            windows = self.windows
            self._plan = plan_batches(
                windows.lengths,
                windows.target_counts,
                self.config["train_batch_size"],
                self.generator,
                shuffle=self.shuffle,
            )
            if not self.config["single_spec"]:  # each process of a distributed run takes its share
                rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
                self._plan = self._plan[rank::world][: len(self._plan) // world]
        return self._plan

    def __len__(self):
        return len(self.plan())

    def __iter__(self):
        plan = self.plan()
        self._plan = None
        for index in plan:
            yield self.collate(index)

    def collate(self, index):
        """The batch of these windows, ``(b,)``."""
        place, inside, items = self._read(index)
        first = torch.from_numpy(self.windows.first_targets[index])
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
        owners = users.repeat_interleave(trained.sum(1))
        columns = {
            self.uid_field: users,
            self.list_field: sequence,
            self.length_field: torch.from_numpy(self.windows.lengths[index]),
            LOSS_POSITION: loss_position,
            self.iid_field: targets,
            ALIGN_ITEMS: targets if self.align_positions else torch.unique(targets),
        }
        needed = [sequence.view(-1), targets]
        if self.negatives is not None:
            k = self.negatives_per_target
            drawn = self.negatives.sample(owners.repeat_interleave(k), targets.repeat_interleave(k))
            needed.append(drawn)
            columns[self.negative_field] = drawn if k == 1 else drawn.view(-1, k)
        columns[BATCH_ITEMS] = torch.unique(torch.cat(needed))
        return Interaction(columns)

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
