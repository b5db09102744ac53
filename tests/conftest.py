"""Nothing of its own: the fixture ``engine`` is that of the plugin which comes with clipper."""
