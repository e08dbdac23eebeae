"""What a trained model is for: recommendations, new users and items, exports."""

from recbole_llmemb.apps.serve.recommender import Recommender
from recbole_llmemb.apps.serve.result import Recommendations

__all__ = ["Recommendations", "Recommender"]
