"""What a trained model is for: recommendations, new users and items, exports."""

from recbole_llmemb.core.imports import lazy

__all__ = ["Recommendations", "Recommender"]

__getattr__ = lazy(
    __name__,
    recommendations="Recommendations format_of rank_new_items write",
    recommender="Recommender",
)
