"""Records of files: one reader, and from values to text."""
