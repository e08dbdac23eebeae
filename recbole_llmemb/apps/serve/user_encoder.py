"""A model's way from a history to a user vector as one program, without this package."""

from __future__ import annotations

import warnings

import torch

from recbole_llmemb.core.errors import UserError, reason_of

NAME = "user_encoder.pt2"


def write_encoder(path, recommender, people, wanted):
    """Export the user encoder and compare it with the model.

    ``people``, ``wanted``: with whom to compare, and their vectors.
    Returns largest absolute difference of a vector's entry, and descriptions of the inputs.
    """
    dataset, config = recommender.dataset, recommender.config
    names = [dataset.iid_field + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"]]
    reads_users = "users" in recommender.method.reads
    names += [dataset.uid_field] * reads_users
    batch = people.batch(dataset, config, narrow=False)  # as wide as the model reads
    columns = [batch[name] for name in names]
    encoder = recommender.method.user_encoder().cpu()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer about a GRU's list of weights
        program, fixed = _exported(encoder, columns, recommender.model)
    torch.export.save(program, str(path))
    run = torch.export.load(str(path)).module()
    gap = 0.0
    for rows in (slice(None), slice(1)):  # a batch, and one
        given = [column[rows] for column in columns]
        if rows.stop and not fixed:
            given[0] = given[0][:, : max(2, int(given[1]))].contiguous()
        with torch.no_grad():
            gap = max(gap, float((run(*given) - wanted[rows]).abs().max()))
    if not gap < 1e-3 * max(1.0, float(wanted.abs().max())):
        raise UserError(
            f"The exported user encoder of {config['model']} differs from the model by {gap:.3g}, "
            "so it is not kept; leave encoder out of --what."
        )
    width = columns[0].shape[1]
    inputs = [f"items (b, {width if fixed else f'up to {width}'}) int64", "lengths (b,) int64"]
    return gap, inputs + ["users (b,) int64"] * reads_users


def _exported(encoder, columns, model):
    """The program for any batch, and any width if the model allows it; whether it does not."""
    batch = torch.export.Dim("batch")
    columns = [torch.cat([column[:3]] * 4)[:4] for column in columns]
    longest = columns[0].shape[1]
    failure: Exception | None = None
    for fixed in (False, True) if model.padding_free and longest > 4 else (True,):
        shapes = [{0: batch} for _ in columns]
        given = list(columns)
        if not fixed:
            shapes[0][1] = torch.export.Dim("width", min=2, max=longest)
            given[0] = columns[0][:, : longest - 1].contiguous()
            given[1] = columns[1].clamp(max=longest - 1)
        try:
            return torch.export.export(encoder, tuple(given), dynamic_shapes=tuple(shapes)), fixed
        except Exception as error:  # whatever a tracer meets in somebody's model
            failure = error
    raise UserError(
        f"{type(model).__name__} cannot be exported by torch.export ({type(failure).__name__}: "
        f"{reason_of(failure, 200)}); leave encoder out of --what."
    ) from failure
