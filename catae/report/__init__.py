"""How a run is shown: figures, animations, tables, and HTML pages."""
