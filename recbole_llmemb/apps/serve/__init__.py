"""What a trained model is for: recommendations, new users and items, exports."""

from recbole_llmemb.apps.serve.recommendations import Recommendations
from recbole_llmemb.apps.serve.recommender import Recommender

__all__ = ["Recommendations", "Recommender"]
