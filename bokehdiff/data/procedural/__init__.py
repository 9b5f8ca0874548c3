"""Pictures drawn by procedure, each from (seed, n) alone: subjects with transparency, scenes, whole training sets."""
