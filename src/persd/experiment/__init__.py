"""``persd experiment GRID.toml``: the paper's experiments over one's own student and teacher."""
