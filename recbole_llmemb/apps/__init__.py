"""Applications: searches, recommendations, comparisons, conversions. None knows another."""
