"""What importing RecBole's models does to everybody else's."""

from __future__ import annotations


def switch_anomaly_detection_off() -> None:
    """Undo what ``recbole.model.sequential_recommender.sine`` does when it is imported.

    It calls ``torch.autograd.set_detect_anomaly(True)`` at module level, and the package
    imports all its models at once: every training step of every model in the process then
    records a stack trace per operation and checks every gradient for NaN. Somebody who
    had anomaly detection on before keeps it.
    """
    import torch

    before = torch.is_anomaly_enabled()
    import recbole.model.sequential_recommender  # noqa: F401

    torch.autograd.set_detect_anomaly(before)
